/**
 * A model with attention spans on a GPU or a CPU: bytes per second of texts read beside each other, and every log-probability for a comparison.
 *
 * usage: node dist/loadtest/gpu/measure-span.js TEXT OUT [--texts N] [--bytes N] -- [engine options]
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { startEngine } from '../../src/engine/start.js';
import { loadModels } from '../../src/models/registry.js';

const { values, positionals } = parseArgs({
  options: { texts: { type: 'string', default: '32' }, bytes: { type: 'string', default: '32768' } },
  allowPositionals: true,
});
const [file, out, ...options] = positionals;
if (file === undefined || out === undefined)
  throw new Error('usage: measure-span.js TEXT OUT [--texts N] [--bytes N] -- [options]');
const config = parseConfig(['--queue-tokens-max', '1000000000', '--queue-wait-ms-max', '600000', ...options], {});
const only = config.modelList.length > 0 ? config.modelList : ['span-lm-bytes'];
const { models, refused } = await loadModels({ folder: config.models, only, precision: config.precision });
const [model] = models;
if (model === undefined) throw new Error(`no model: ${refused[0]?.reason}`);
const engine = await startEngine(config, [model]);
const text = readFileSync(file);
const each = Number(values.bytes);
const texts = Array.from({ length: Number(values.texts) }, (_, i) =>
  Int32Array.from(text.subarray((i * each) % (text.length - each), ((i * each) % (text.length - each)) + each)),
);
const rounds = [];
let first: readonly number[] | null = null;
mkdirSync(out, { recursive: true });
for (let round = 0; round < 3; round++) {
  const began = monotonicMs();
  const outcome = await engine.scoreStream(
    { model: model.id, texts, spanCap: null, topLogprobs: 0, session: null, deadlineAtMs: null } as never,
    new AbortController().signal,
  );
  const seconds = (monotonicMs() - began) / 1000;
  const all = outcome.texts.flatMap(({ logprobs }) => [...logprobs]);
  const bits = -all.reduce((sum, value) => sum + value, 0) / Math.LN2 / all.length;
  // Not 0: what is launched again reads or writes something that has moved since.
  const fromFirst =
    first === null ? 0 : first.reduce((most, x, i) => Math.max(most, Math.abs(x - (all[i] as number))), 0);
  first ??= all;
  rounds.push({
    seconds,
    bytesPerSecond: all.length / seconds,
    bitsPerByte: bits,
    differenceFromFirstRound: fromFirst,
  });
  console.log(JSON.stringify({ device: engine.info().deviceReason, ...rounds.at(-1) }));
  if (round === 0) writeFileSync(join(out, 'span-logprob.f32'), Float32Array.from(all));
}
writeFileSync(
  join(out, 'span.json'),
  JSON.stringify(
    { model: model.id, precision: model.precision, options, texts: texts.length, bytes: each, rounds },
    null,
    1,
  ),
);
await engine.drain(1000);
