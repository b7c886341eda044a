/** One phase of a scenario: requests at their times, and what client and server say of them. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { type Percentiles, percentilesOf } from './latencies.js';
import type { Answer, OpenClient, Planned } from './open-client.js';
import { scrape } from './server.js';
import {
  type Counted,
  countAnswers,
  countedBetween,
  disagreementsOf,
  realisedShares,
  settledScrape,
} from './server-counts.js';
import type { Mode } from './workloads.js';

export interface PhasePlan {
  readonly name: string;
  readonly mode: Mode;
  readonly offeredPerSecond: number;
  readonly seconds: number;
  readonly plan: readonly { readonly atMs: number; readonly planned: Planned }[];
  readonly deadlineMs: number | null;
  /** Outcomes that are no failure of the run. */
  readonly refusals: readonly string[];
}

export interface PhaseResult {
  readonly name: string;
  readonly mode: Mode;
  readonly seconds: number;
  readonly offeredPerSecond: number;
  readonly sent: number;
  readonly client: Counted;
  readonly server: Counted;
  /** Answers OK a second, from the first intended start to the last answer; those within the deadline only. */
  readonly okPerSecond: number;
  /** Tokens scored and source tokens translated in those answers, a second. */
  readonly tokensPerSecond: number;
  readonly deadlineMs: number | null;
  /** From the intended start; of answers OK, and of refusals. */
  readonly latency: Percentiles | null;
  readonly refusalLatency: Percentiles | null;
  /** Of streams. */
  readonly firstEvent: Percentiles | null;
  readonly byTenant: Readonly<Record<string, Percentiles>>;
  /** Tokens by steps, of the replies. */
  readonly depthHistogram: readonly number[];
  readonly meanDepth: number | null;
  readonly realisedShares: Readonly<Record<string, number>>;
  readonly retryAfterSecondsMax: number | null;
  readonly clientLagP99Ms: number;
  readonly problems: readonly string[];
}

export async function runPhase(
  url: string,
  client: OpenClient,
  phase: PhasePlan,
  stop: AbortSignal,
  onAnswer: (answer: Answer) => void,
): Promise<{ readonly result: PhaseResult; readonly answers: readonly Answer[] }> {
  const before = await scrape(url);
  const lag = monitorEventLoopDelay({ resolution: 2 });
  lag.enable();
  const answers = await client.drive(phase.plan, stop, onAnswer);
  lag.disable();
  const after = await settledScrape(url, before, answers.length);
  const clientCounts = countAnswers(answers);
  const server = countedBetween(before, after);
  const problems = disagreementsOf(answers.length, clientCounts, server);
  for (const [key, count] of Object.entries(clientCounts.outcomes)) {
    const outcome = key.slice(key.indexOf(' ') + 1);
    if (outcome !== 'OK' && !phase.refusals.includes(outcome)) problems.push(`${count} requests ended with ${key}`);
  }
  const result = {
    ...summarize(phase, answers),
    client: clientCounts,
    server,
    realisedShares: realisedShares(before, after),
    clientLagP99Ms: lag.percentile(99) / 1e6,
    problems,
  };
  return { result, answers };
}

type Summary = Omit<PhaseResult, 'client' | 'server' | 'realisedShares' | 'clientLagP99Ms' | 'problems'>;

export function summarize(phase: PhasePlan, answers: readonly Answer[]): Summary {
  const { name, mode, offeredPerSecond, seconds, deadlineMs } = phase;
  const latencyOf = ({ endedAtMs, intendedAtMs }: Answer) => endedAtMs - intendedAtMs;
  const ok = answers.filter(({ outcome }) => outcome === 'OK');
  const good = ok.filter((answer) => deadlineMs === null || latencyOf(answer) <= deadlineMs);
  const refused = answers.filter(({ outcome }) => outcome !== 'OK');
  const first = answers[0]?.intendedAtMs ?? 0;
  const last = answers.reduce((latest, { endedAtMs }) => Math.max(latest, endedAtMs), first);
  const elapsedSeconds = Math.max(seconds, (last - first) / 1000);
  const tokens = good.reduce((sum, { reply }) => sum + (reply?.tokens ?? 0) + (reply?.sourceTokens ?? 0), 0);
  const depthHistogram: number[] = [];
  for (const { reply } of ok) {
    for (const [steps, count] of (reply?.histogram ?? []).entries()) {
      depthHistogram[steps] = (depthHistogram[steps] ?? 0) + (count ?? 0);
    }
  }
  const counted = depthHistogram.reduce((sum, count) => sum + count, 0);
  const byTenant: Record<string, Percentiles> = {};
  for (const tenant of new Set(answers.map(({ planned }) => planned.tenant))) {
    const own = percentilesOf(ok.filter(({ planned }) => planned.tenant === tenant).map(latencyOf));
    if (tenant !== null && own !== null) byTenant[tenant] = own;
  }
  const retryAfters = answers.flatMap(({ retryAfterSeconds }) => retryAfterSeconds ?? []);
  return {
    name,
    mode,
    seconds,
    offeredPerSecond,
    sent: answers.length,
    okPerSecond: good.length / elapsedSeconds,
    tokensPerSecond: tokens / elapsedSeconds,
    deadlineMs,
    latency: percentilesOf(ok.map(latencyOf)),
    refusalLatency: percentilesOf(refused.map(latencyOf)),
    firstEvent: percentilesOf(
      ok.flatMap(({ planned, firstEventAtMs, intendedAtMs }) =>
        firstEventAtMs === null || !planned.body.includes('"stream":true') ? [] : [firstEventAtMs - intendedAtMs],
      ),
    ),
    byTenant,
    depthHistogram: Array.from(depthHistogram, (count) => count ?? 0),
    meanDepth: counted === 0 ? null : depthHistogram.reduce((sum, count, steps) => sum + count * steps, 0) / counted,
    retryAfterSecondsMax: retryAfters.length === 0 ? null : Math.max(...retryAfters),
  };
}
