/**
 * What a user's loop over onnxruntime-node's `run` reaches with a package's float32 graphs on a GPU (or a CPU): the loops of `bench
 * --node-loop` (src/cli/bench-node-loop.ts) and of translation_compare.py (export/node/translate-loop.mjs), in batches of several sizes.
 *
 * usage: node dist/loadtest/gpu/node-loop.js PACKAGE INPUTS.json OUT.json [--provider cuda] [--batch 32,128] [--seconds-max 60]
 *
 * INPUTS: a list of lists of token ids (export/gpu_inputs.py). A batch size is given up when its first batch fails, and ends after
 * --seconds-max or with the last text; the first batch warms up and is not counted, unless it took all the time there was.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Helper } from '../../src/cli/bench-child.js';
import type { Measured } from '../../src/cli/bench-engine.js';
import type { NodeLoopRequest } from '../../src/cli/bench-node-loop.js';
import { monotonicMs } from '../../src/clock.js';
import type { GraphDescription, ModelDescription } from '../../src/models/description.js';
import { loadModels, packageFacts } from '../../src/models/registry.js';

const SCORE_LOOP = new URL('../../src/cli/bench-node-loop.js', import.meta.url);
const TRANSLATE_LOOP = fileURLToPath(new URL('../../../export/node/translate-loop.mjs', import.meta.url));
/** Of what the GPU does not do. */
const THREADS = 8;
/** Those of translate-loop.mjs; the other one computes the whole prefix for every token. */
const TRANSLATE_MODE = 'cache';

type Provider = NodeLoopRequest['provider'];
type Ids = readonly (readonly number[])[];

interface Batch {
  readonly seconds: number;
  readonly tokens: number;
  /** Sum of the depths of the tokens. */
  readonly depths: number;
}

/** One of the two loops in its process; `run` does one batch. */
interface Loop {
  run(ids: Ids): Promise<Batch>;
  end(): Promise<void>;
}

function scoreLoop(model: ModelDescription, width: number, provider: Provider): Loop {
  const file = (name: string) => (model.graphs[name] as GraphDescription).file;
  const helper = new Helper<NodeLoopRequest, Measured>(SCORE_LOOP, 'the loop over onnxruntime-node');
  const run = async (ids: Ids): Promise<Batch> => {
    const { seconds, tokens, positionSteps } = await helper.ask({
      packageFolder: model.folder,
      precision: 'float32',
      provider,
      files: { begin: file('begin'), step: file('step'), finish: file('finish') },
      threads: THREADS,
      sequences: ids.map((sequence) => Int32Array.from(sequence)),
      sequencesPerBatch: ids.length,
      width,
      maxSteps: model.maxSteps,
      threshold: model.threshold,
      bosId: model.bosId,
    });
    return { seconds, tokens, depths: positionSteps };
  };
  return { run, end: () => helper.end() };
}

async function translateLoop(model: ModelDescription, provider: Provider): Promise<Loop> {
  const args = [TRANSLATE_LOOP, model.folder, 'float32', String(THREADS), provider];
  const child: ChildProcess = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  if (child.stdin === null || child.stdout === null) throw new Error('the loop has no pipes');
  const { stdin } = child;
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<unknown> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error('the translation loop ended without an answer');
    return JSON.parse(value);
  };
  await answer();
  const run = async (ids: Ids): Promise<Batch> => {
    stdin.write(`${JSON.stringify({ ids, mode: TRANSLATE_MODE })}\n`);
    const { results, seconds } = (await answer()) as { results: { depths: number[] }[]; seconds: number };
    const depths = results.flatMap((result) => result.depths);
    return { seconds, tokens: depths.length, depths: depths.reduce((sum, depth) => sum + depth, 0) };
  };
  return { run, end: async () => void stdin.end() };
}

/** Batches in the order of the texts. */
async function measure(loop: Loop, texts: Ids, batch: number, secondsMax: number): Promise<Record<string, number>> {
  const startedAtMs = monotonicMs();
  const done: Batch[] = [];
  for (let start = 0; start < texts.length; start += batch) {
    done.push(await loop.run(texts.slice(start, start + batch)));
    if ((monotonicMs() - startedAtMs) / 1000 > secondsMax) break;
  }
  const counted = done.length > 1 ? done.slice(1) : done;
  const sum = (key: keyof Batch) => counted.reduce((total, result) => total + result[key], 0);
  const [seconds, tokens] = [sum('seconds'), sum('tokens')];
  const meanDepth = sum('depths') / tokens;
  return {
    tokensPerSecond: tokens / seconds,
    tokens,
    seconds,
    batches: counted.length,
    warmUps: done.length > 1 ? 1 : 0,
    meanDepth,
  };
}

async function main(): Promise<void> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      provider: { type: 'string', default: 'cuda' },
      batch: { type: 'string', default: '32,128' },
      'seconds-max': { type: 'string', default: '60' },
    },
  });
  const [folder, inputs, out] = positionals;
  if (folder === undefined || inputs === undefined || out === undefined) {
    throw new Error(
      'usage: node-loop.js PACKAGE INPUTS.json OUT.json [--provider cuda|cpu] [--batch N,N] [--seconds-max S]',
    );
  }
  const { provider } = values;
  if (provider !== 'cpu' && provider !== 'cuda') throw new Error(`--provider ${provider}: choose cuda or cpu`);
  const [models, name] = [dirname(resolve(folder)), basename(resolve(folder))];
  const { models: loaded, refused } = await loadModels({ folder: models, only: [name], precision: 'float32' });
  const [model] = loaded;
  if (model === undefined) throw new Error(`${name}: ${refused[0]?.reason ?? 'no such package'}`);
  const width = (await packageFacts(models, name)).manifest.dimensions.d_model;
  const texts = JSON.parse(readFileSync(inputs, 'utf8')) as Ids;
  const measured: Record<string, unknown>[] = [];
  for (const batch of values.batch.split(',').map(Number)) {
    const about = { model: name, task: model.task, provider, precision: 'float32', batch };
    // A process of its own each: one that failed on the device leaves nothing behind.
    let loop: Loop | null = null;
    try {
      loop = model.task === 'score' ? scoreLoop(model, width, provider) : await translateLoop(model, provider);
      measured.push({ ...about, ...(await measure(loop, texts, batch, Number(values['seconds-max']))) });
    } catch (error) {
      measured.push({ ...about, error: error instanceof Error ? error.message : String(error) });
    }
    await loop?.end();
    console.log(JSON.stringify(measured.at(-1)));
    writeFileSync(out, `${JSON.stringify(measured, null, 1)}\n`);
  }
}

await main();
