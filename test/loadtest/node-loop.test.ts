/** The loops over onnxruntime-node that the engine on a GPU is compared with, on the CPU: they count what they did. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const SCRIPT = fileURLToPath(new URL('../../loadtest/gpu/node-loop.js', import.meta.url));
const MODELS = fileURLToPath(new URL('../../../models/', import.meta.url));

interface Case {
  readonly ids: readonly number[];
  readonly source_ids: readonly number[];
  readonly depth: readonly number[];
  readonly decoder_depth: readonly number[];
}

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ponder-node-loop-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** Two golden cases of a package, the shortest, and what the loop says of them in one batch. */
async function measured(model: string, field: 'ids' | 'source_ids') {
  const golden = JSON.parse(await readFile(join(MODELS, model, 'golden.json'), 'utf8')) as Case[];
  const cases = golden.sort((a, b) => a[field].length - b[field].length).slice(0, 2);
  const [inputs, out] = [join(folder, 'inputs.json'), join(folder, 'out.json')];
  await writeFile(inputs, JSON.stringify(cases.map((entry) => entry[field])));
  await promisify(execFile)(process.execPath, [
    SCRIPT,
    join(MODELS, model),
    inputs,
    out,
    '--provider',
    'cpu',
    '--batch',
    '2',
  ]);
  return { cases, entries: JSON.parse(await readFile(out, 'utf8')) as Record<string, number | string>[] };
}

function expectCounts(entry: Record<string, number | string> | undefined, depths: readonly number[]): void {
  assert.equal(entry?.error, undefined);
  assert.equal(entry?.tokens, depths.length);
  assert.equal(entry?.meanDepth, depths.reduce((sum, depth) => sum + depth, 0) / depths.length);
  assert.ok(Number(entry?.tokensPerSecond) > 0);
}

test('scores as deep as the reference', async () => {
  const { cases, entries } = await measured('ut-lm-en', 'ids');
  expectCounts(
    entries[0],
    cases.flatMap(({ depth }) => depth),
  );
});

test('translates as deep as the reference', async () => {
  const { cases, entries } = await measured('ut-mt-ende', 'source_ids');
  expectCounts(
    entries[0],
    cases.flatMap(({ decoder_depth }) => decoder_depth),
  );
});

test('an unknown provider is refused by name', async () => {
  const run = promisify(execFile)(process.execPath, [SCRIPT, MODELS, 'inputs', 'out', '--provider', 'rocm']);
  await assert.rejects(run, /--provider rocm: choose cuda or cpu/);
});
