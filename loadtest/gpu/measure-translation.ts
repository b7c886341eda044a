/**
 * Translation on a GPU, measured where the GPU is (`unpack.sh` made .gpu/run there): at the model's own rule and at forced full depth in one run,
 * with 256 requests of a sentence in flight, and every translation written for the comparison with PyTorch (export/gpu_parity.py).
 *
 * usage: node dist/loadtest/gpu/measure-translation.js SOURCES.json OUT [engine options]
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { budgetOf } from '../../src/cli/bench-engine.js';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import type { Budget, SentenceResult, StageTelemetry } from '../../src/engine/protocol.js';
import { type StartedEngine, startEngine } from '../../src/engine/start.js';
import type { ModelDescription } from '../../src/models/description.js';
import { loadModels } from '../../src/models/registry.js';

const IN_FLIGHT = 256;
/** Rounds over all sentences at each depth: the last long sentences of a run have the device to themselves. */
const ROUNDS = { adaptive: 12, fixed: 6 };

interface StageRate {
  readonly steps: number;
  readonly deviceMsPerStep: number;
  readonly hostMsPerStep: number;
  readonly rowsPerStep: number;
  readonly paddedRowsPerStep: number;
}

interface Rate {
  readonly seconds: number;
  readonly sentences: number;
  readonly outputTokens: number;
  readonly outputTokensPerSecond: number;
  /** Steps of a decoder position. */
  readonly meanDepth: number;
  readonly latencyMsP50: number;
  readonly latencyMsP99: number;
  readonly encoder: StageRate;
  readonly decoder: StageRate;
}

interface Load {
  readonly engine: StartedEngine;
  readonly model: ModelDescription;
  readonly sources: readonly Int32Array[];
  readonly budget: Budget;
  readonly rounds: number;
  readonly beam: number;
  readonly inFlight: number;
}

/** What `translate` and most clients ask for. */
function maxNewTokens(source: Int32Array, model: ModelDescription): number {
  return Math.min(2 * source.length + 16, model.contextTokens);
}

async function translateAll(load: Load): Promise<{ rate: Rate; results: SentenceResult[] }> {
  const { engine, model, sources, budget, rounds, beam } = load;
  const results: SentenceResult[] = new Array(sources.length);
  const reports: StageTelemetry[] = [];
  const stop = engine.onTelemetry(({ stages }) => reports.push(...stages));
  const latencies: number[] = [];
  let next = 0;
  let positions = 0;
  let positionSteps = 0;
  let tokens = 0;
  const startedAtMs = monotonicMs();
  const feed = async () => {
    while (next < rounds * sources.length) {
      const at = next++ % sources.length;
      const source = sources[at] as Int32Array;
      const began = monotonicMs();
      const { sentences } = await engine.translate(
        {
          ...{ model: model.id, sentences: [source], encoderBudget: budget, decoderBudget: budget, beam },
          ...{ lengthPenalty: 1, maxNewTokens: [maxNewTokens(source, model)], streamTokens: false, deadlineAtMs: null },
        },
        new AbortController().signal,
      );
      latencies.push(monotonicMs() - began);
      const result = sentences[0] as SentenceResult;
      results[at] = result;
      positions += result.decoderPositions;
      positionSteps += result.decoderSteps;
      tokens += result.hypotheses[0]?.logprobs.length ?? 0;
    }
  };
  await Promise.all(Array.from({ length: load.inFlight }, feed));
  const seconds = (monotonicMs() - startedAtMs) / 1000;
  // The last report comes when the engine has been idle for a moment.
  await new Promise((resolve) => setTimeout(resolve, 300));
  stop();
  latencies.sort((a, b) => a - b);
  const quantile = (q: number) => latencies[Math.min(latencies.length - 1, Math.floor(q * latencies.length))] as number;
  const rate = {
    seconds,
    sentences: rounds * sources.length,
    outputTokens: tokens,
    outputTokensPerSecond: tokens / seconds,
    meanDepth: positionSteps / positions,
    latencyMsP50: quantile(0.5),
    latencyMsP99: quantile(0.99),
    encoder: rateOf(reports, 'encoder'),
    decoder: rateOf(reports, 'decoder'),
  };
  return { rate, results };
}

function rateOf(reports: readonly StageTelemetry[], name: string): StageRate {
  const sums = { steps: 0, computeSeconds: 0, hostSeconds: 0, activeRows: 0, paddedRows: 0 };
  for (const report of reports) {
    if (report.stage !== name) continue;
    for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] += report[key];
  }
  return {
    steps: sums.steps,
    deviceMsPerStep: (1000 * sums.computeSeconds) / sums.steps,
    hostMsPerStep: (1000 * sums.hostSeconds) / sums.steps,
    rowsPerStep: sums.activeRows / sums.steps,
    paddedRowsPerStep: sums.paddedRows / sums.steps,
  };
}

/** As gpu_results.py reads them. */
function writeTranslations(folder: string, results: readonly SentenceResult[], eosId: number): void {
  mkdirSync(folder, { recursive: true });
  const lines = results.map(({ hypotheses, encoderDepths }) => {
    const best = hypotheses[0];
    if (best === undefined) throw new Error('a sentence without a translation');
    return JSON.stringify({
      ids: [...best.ids, ...(best.finishReason === 'stop' ? [eosId] : [])],
      logprobs: Array.from(best.logprobs),
      depths: Array.from(best.depths),
      encoder_depths: Array.from(encoderDepths),
      finish_reason: best.finishReason,
    });
  });
  writeFileSync(join(folder, 'translations.jsonl'), `${lines.join('\n')}\n`);
}

async function main([inputs, out, ...options]: readonly string[]): Promise<void> {
  if (inputs === undefined || out === undefined)
    throw new Error('usage: measure-translation.js SOURCES.json OUT [engine options]');
  const config = parseConfig(
    ['--queue-lanes-max', '1000000', '--queue-tokens-max', '1000000000', '--queue-wait-ms-max', '600000', ...options],
    {},
  );
  const { models, refused } = await loadModels({
    folder: config.models,
    only: ['ut-mt-ende'],
    precision: config.precision,
  });
  const [model] = models;
  if (model === undefined) throw new Error(`no model: ${refused[0]?.reason}`);
  mkdirSync(out, { recursive: true });
  const began = monotonicMs();
  const engine = await startEngine(config, [model]);
  const report: Record<string, unknown> = { device: engine.info(), startMs: monotonicMs() - began, options };
  console.log(JSON.stringify(report));
  const sources = (JSON.parse(readFileSync(inputs, 'utf8')) as number[][]).map((ids) => Int32Array.from(ids));
  const common = { engine, model, sources, inFlight: IN_FLIGHT, beam: 1 };
  const adaptive = budgetOf(model, 'adaptive');
  const fixed = budgetOf(model, 'fixed');
  const save = () => writeFileSync(join(out, 'measure-translation.json'), JSON.stringify(report, null, 1));
  await translateAll({ ...common, budget: adaptive, rounds: 1 });
  for (const round of [1, 2]) {
    const a = await translateAll({ ...common, budget: adaptive, rounds: ROUNDS.adaptive });
    const f = await translateAll({ ...common, budget: fixed, rounds: ROUNDS.fixed });
    const share = a.rate.outputTokensPerSecond / f.rate.outputTokensPerSecond / (model.maxSteps / a.rate.meanDepth);
    report[`round ${round}`] = { adaptive: a.rate, fixed: f.rate, share };
    console.log(JSON.stringify({ round, adaptive: a.rate, fixed: f.rate, share }));
    if (round === 1) writeTranslations(join(out, 'batch'), a.results, model.eosId);
    save();
  }
  const crowded = await translateAll({ ...common, budget: adaptive, rounds: ROUNDS.adaptive, inFlight: 4 * IN_FLIGHT });
  report['1024 in flight'] = crowded.rate;
  console.log(JSON.stringify({ inFlight: 4 * IN_FLIGHT, rate: crowded.rate }));
  const beam = await translateAll({ ...common, sources: sources.slice(0, 500), budget: adaptive, rounds: 1, beam: 4 });
  report.beam4 = beam.rate;
  console.log(JSON.stringify({ beam4: beam.rate }));
  // One sentence at a time: the latency of a request, and what a batch must not change.
  const few = { ...common, sources: sources.slice(0, 200), budget: adaptive, rounds: 1, inFlight: 1 };
  const alone = await translateAll(few);
  report.alone = alone.rate;
  writeTranslations(join(out, 'alone'), alone.results, model.eosId);
  save();
  console.log(JSON.stringify({ alone: alone.rate }));
  await engine.drain(1000);
}

await main(process.argv.slice(2));
