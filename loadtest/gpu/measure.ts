/**
 * The engine on a GPU, measured where the GPU is (`unpack.sh` made .gpu/run there): scoring at the model's own rule and at forced full depth in
 * one run, and every score and depth written for the comparison with PyTorch (export/gpu_parity.py).
 *
 * usage: node dist/loadtest/gpu/measure.js INPUTS.json OUT [engine options]
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { budgetOf } from '../../src/cli/bench-engine.js';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import type { Budget, ScoreWindowResult, StageTelemetry } from '../../src/engine/protocol.js';
import { type StartedEngine, startEngine } from '../../src/engine/start.js';
import type { ModelDescription } from '../../src/models/description.js';
import { loadModels } from '../../src/models/registry.js';

/** Windows of one request, and requests in flight. */
const REQUEST_WINDOWS = 32;
const IN_FLIGHT = 64;

interface Rate {
  readonly seconds: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  readonly positionSteps: number;
  readonly meanDepth: number;
  readonly steps: number;
  readonly deviceMsPerStep: number;
  readonly hostMsPerStep: number;
  readonly rowsPerStep: number;
  readonly paddedRowsPerStep: number;
}

async function score(
  engine: StartedEngine,
  model: ModelDescription,
  sequences: readonly Int32Array[],
  budget: Budget,
  rounds: number,
): Promise<{ rate: Rate; results: ScoreWindowResult[] }> {
  const results: ScoreWindowResult[] = new Array(sequences.length);
  const sums = { steps: 0, computeSeconds: 0, hostSeconds: 0, activeRows: 0, paddedRows: 0 };
  const stop = engine.onTelemetry(({ stages }) => {
    for (const stage of stages as StageTelemetry[])
      for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] += stage[key];
  });
  const jobs = Array.from({ length: rounds }, () =>
    Array.from({ length: Math.ceil(sequences.length / REQUEST_WINDOWS) }, (_, i) => i * REQUEST_WINDOWS),
  ).flat();
  let next = 0;
  let positionSteps = 0;
  const startedAtMs = monotonicMs();
  const feed = async () => {
    for (let start = jobs[next++]; start !== undefined; start = jobs[next++]) {
      const windows = sequences.slice(start, start + REQUEST_WINDOWS).map((ids) => ({ ids, scoreFrom: 0 }));
      const request = { model: model.id, windows, budget, topLogprobs: 0, deadlineAtMs: null };
      const outcome = await engine.score(request, new AbortController().signal);
      for (const [i, window] of outcome.windows.entries()) {
        results[start + i] = window;
        positionSteps += window.positionSteps;
      }
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, feed));
  const seconds = (monotonicMs() - startedAtMs) / 1000;
  await new Promise((resolve) => setTimeout(resolve, 300));
  stop();
  const tokens = rounds * sequences.reduce((sum, { length }) => sum + length, 0);
  const rate = {
    seconds,
    tokens,
    tokensPerSecond: tokens / seconds,
    positionSteps,
    meanDepth: positionSteps / tokens,
    steps: sums.steps,
    deviceMsPerStep: (1000 * sums.computeSeconds) / sums.steps,
    hostMsPerStep: (1000 * sums.hostSeconds) / sums.steps,
    rowsPerStep: sums.activeRows / sums.steps,
    paddedRowsPerStep: sums.paddedRows / sums.steps,
  };
  return { rate, results };
}

function writeResults(folder: string, model: string, results: readonly ScoreWindowResult[]): void {
  mkdirSync(folder, { recursive: true });
  let offset = 0;
  const windows = results.map(({ logprobs }) => {
    const entry = { offset, count: logprobs.length };
    offset += logprobs.length;
    return entry;
  });
  const all = <T extends Float32Array | Uint8Array>(into: T, of: (result: ScoreWindowResult) => T): T => {
    results.forEach((result, i) => {
      into.set(of(result), windows[i]?.offset);
    });
    return into;
  };
  writeFileSync(join(folder, 'index.json'), JSON.stringify({ model, windows }));
  writeFileSync(
    join(folder, 'logprob.f32'),
    all(new Float32Array(offset), ({ logprobs }) => logprobs),
  );
  writeFileSync(
    join(folder, 'depth.u8'),
    all(new Uint8Array(offset), ({ depths }) => depths),
  );
  writeFileSync(
    join(folder, 'remainder.f32'),
    all(new Float32Array(offset), ({ remainders }) => remainders),
  );
}

async function main([inputs, out, ...options]: readonly string[]): Promise<void> {
  if (inputs === undefined || out === undefined) throw new Error('usage: measure.js INPUTS.json OUT [engine options]');
  const config = parseConfig(
    ['--queue-lanes-max', '1000000', '--queue-tokens-max', '1000000000', '--queue-wait-ms-max', '600000', ...options],
    {},
  );
  const { models, refused } = await loadModels({
    folder: config.models,
    only: ['ut-lm-en'],
    precision: config.precision,
  });
  const [model] = models;
  if (model === undefined) throw new Error(`no model: ${refused[0]?.reason}`);
  const began = monotonicMs();
  const engine = await startEngine(config, [model]);
  const report: Record<string, unknown> = { device: engine.info(), startMs: monotonicMs() - began, options };
  console.log(JSON.stringify(report));
  const sequences = (JSON.parse(readFileSync(inputs, 'utf8')) as number[][]).map((ids) => Int32Array.from(ids));
  const rounds = Math.max(1, Math.round(4_000_000 / sequences.reduce((sum, { length }) => sum + length, 0)));
  const adaptive = budgetOf(model, 'adaptive');
  const fixed = budgetOf(model, 'fixed');
  await score(engine, model, sequences, adaptive, 1);
  for (const round of [1, 2, 3]) {
    const a = await score(engine, model, sequences, adaptive, rounds);
    const f = await score(engine, model, sequences, fixed, Math.ceil(rounds / 2));
    const share = a.rate.tokensPerSecond / f.rate.tokensPerSecond / (model.maxSteps / a.rate.meanDepth);
    report[`round ${round}`] = { adaptive: a.rate, fixed: f.rate, share };
    console.log(JSON.stringify({ round, adaptive: a.rate, fixed: f.rate, share }));
    if (round === 1) writeResults(join(out, 'batch'), model.id, a.results);
  }
  // One sequence at a time: what a batch must not change.
  const few = sequences.slice(0, 200);
  const alone: ScoreWindowResult[] = [];
  const aloneBegan = monotonicMs();
  for (const ids of few) {
    const request = {
      model: model.id,
      windows: [{ ids, scoreFrom: 0 }],
      budget: adaptive,
      topLogprobs: 0,
      deadlineAtMs: null,
    };
    alone.push(...(await engine.score(request, new AbortController().signal)).windows);
  }
  report.aloneMs = (monotonicMs() - aloneBegan) / few.length;
  writeResults(join(out, 'alone'), model.id, alone);
  writeFileSync(join(out, 'measure.json'), JSON.stringify(report, null, 1));
  console.log(JSON.stringify({ aloneMs: report.aloneMs }));
  await engine.drain(1000);
}

await main(process.argv.slice(2));
