/** A run of one scenario: how its peak is measured, and how its phases are planned and run. */
import { CommandError, type CommandIo, Stopped } from '../src/cli/command.js';
import { Progress } from '../src/cli/progress.js';
import { Random } from '../test/seed.js';
import { peakOf, poisson, varying } from './arrivals.js';
import type { OpenClient } from './open-client.js';
import { outcomesOf, type Peak } from './open-report.js';
import { type PhasePlan, type PhaseResult, runPhase } from './phase.js';
import type { Phase, Scenario } from './scenarios.js';
import { type ServerUnderTest, scrape } from './server.js';
import { settledScrape } from './server-counts.js';
import type { Corpus } from './texts.js';
import type { Depths, Mode, WorkloadContext } from './workloads.js';

export interface Options {
  readonly seconds: number;
  readonly rate: number | null;
  readonly seed: number;
  readonly deadlineMs: number | null;
  readonly file: string | null;
  readonly url: string | null;
  readonly keys: readonly string[];
  readonly connections: number;
  readonly findCapacity: boolean;
  readonly objectiveMs: number;
  readonly quantile: number;
}

/** What every part of a run needs. */
export interface Run {
  readonly scenario: Scenario;
  readonly options: Options;
  readonly server: ServerUnderTest;
  readonly client: OpenClient;
  readonly corpus: Corpus;
  readonly depths: Depths;
  readonly io: CommandIo;
  readonly stop: AbortSignal;
}

/** Most steps of the models served, by task; 1 where none has the task. */
export async function depthsOf(url: string): Promise<Depths> {
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as {
    data: { task: string; halting?: { max_steps: number } }[];
  };
  const depth = (task: string) =>
    data.find((model) => model.task === task && model.halting !== undefined)?.halting?.max_steps ?? 1;
  return { score: depth('score'), translate: depth('translate') };
}

function contextOf({ corpus, depths, options }: Run, mode: Mode, deadlineMs: number | null): WorkloadContext {
  return { corpus, depths, mode, deadlineMs, tenants: options.keys };
}

/** What the server does at most with this mix, adaptive depth, no deadlines; its first second only warms. */
export async function measurePeak(run: Run): Promise<Peak & { readonly measured: boolean }> {
  const { scenario, options, server, client, stop, io } = run;
  const seconds = Math.min(10, Math.max(1, options.seconds / 2));
  const random = new Random(options.seed);
  const next = () => scenario.workload(random, contextOf(run, 'adaptive', null));
  const idle = await scrape(server.url);
  const warming = await client.saturate(next, options.connections, 1, stop);
  const startedAtMs = performance.now();
  const answers = await client.saturate(next, options.connections, seconds, stop);
  const elapsed = (performance.now() - startedAtMs) / 1000;
  // All are counted before the first phase begins.
  await settledScrape(server.url, idle, warming.length + answers.length);
  if (stop.aborted) throw new Stopped();
  const ok = answers.filter(({ outcome }) => outcome === 'OK');
  const bad = answers.find(({ outcome }) => outcome !== 'OK');
  if (ok.length === 0)
    throw new CommandError(`the server answered nothing while its peak was measured: ${bad?.outcome}`);
  const tokens = ok.reduce((sum, { reply }) => sum + (reply?.tokens ?? 0) + (reply?.sourceTokens ?? 0), 0);
  const measured = { okPerSecond: ok.length / elapsed, tokensPerSecond: tokens / elapsed };
  const scale = options.rate === null ? 1 : options.rate / measured.okPerSecond;
  io.stderr.write(
    `peak: ${measured.okPerSecond.toFixed(1)} requests/s, ${measured.tokensPerSecond.toFixed(0)} tokens/s\n`,
  );
  return {
    okPerSecond: measured.okPerSecond * scale,
    tokensPerSecond: measured.tokensPerSecond * scale,
    measured: options.rate === null,
  };
}

/** Phases of the same load get the same requests at the same times: the seed depends on the load alone. */
export function planOf(run: Run, phase: Phase, peak: Peak, seconds: number, seed: number): PhasePlan {
  const { scenario, options } = run;
  const perSecond = phase.load * peak.okPerSecond;
  const times = new Random(seed);
  const rate = scenario.rate?.(perSecond, seconds);
  const arrivals =
    rate === undefined ? poisson(times, perSecond, seconds) : varying(times, rate, peakOf(rate, seconds), seconds);
  const texts = new Random(seed + 1);
  const context = contextOf(run, phase.mode, options.deadlineMs);
  return {
    name: `${phase.load} of peak`,
    mode: phase.mode,
    offeredPerSecond: perSecond,
    seconds,
    plan: arrivals.map((atMs) => ({ atMs, planned: scenario.workload(texts, context) })),
    deadlineMs: options.deadlineMs,
    refusals: scenario.refusals,
  };
}

export async function runPhases(run: Run, peak: Peak): Promise<PhaseResult[]> {
  const { scenario, options, server, client, stop, io } = run;
  const results: PhaseResult[] = [];
  for (const [i, phase] of scenario.phases.entries()) {
    if (stop.aborted) throw new Stopped();
    const plan = planOf(run, phase, peak, options.seconds, options.seed * 1000 + Math.round(phase.load * 100));
    const label = `phase ${i + 1} of ${scenario.phases.length}, ${plan.name}, ${phase.mode}`;
    const progress = new Progress(io.stderr, label, plan.plan.length, undefined, { unit: 'answers' });
    let answered = 0;
    const { result } = await runPhase(server.url, client, plan, stop, () => progress.update(++answered));
    progress.end();
    io.stderr.write(`${label}: ${outcomesOf(result)}\n`);
    results.push(result);
  }
  return results;
}
