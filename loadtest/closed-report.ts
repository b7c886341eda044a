/** What a closed-loop run has shown, as a table. Pure. */
import { quantile, ratioSpread, type Spread, spread } from '../src/cli/bench-arithmetic.js';
import type { EngineMeasured } from '../src/cli/bench-engine.js';
import { table } from '../src/cli/terminal.js';
import type { LoadResult } from './closed-load.js';
import { linearFit } from './linear-fit.js';
import type { Liveness } from './liveness-probe.js';

/** Counted by the server between two scrapes. */
export interface ServerCounts {
  readonly ok: number;
  readonly others: number;
  readonly tokens: number;
}

export interface HttpRound {
  readonly load: LoadResult;
  readonly liveness: Liveness;
  readonly server: ServerCounts;
  /** p99 over the round; with the sampling interval of 2 ms in it. */
  readonly eventLoopLagP99Ms: number;
  readonly eventLoopLagMaxMs: number;
  /** Of this process, which sends and probes: what it adds to the latencies. */
  readonly clientLagP99Ms: number;
  readonly clientLagMaxMs: number;
  readonly residentBytes: number;
  /** Seconds of CPU, all threads. */
  readonly serverCpuSeconds: number;
  readonly clientCpuSeconds: number;
}

export interface ClosedRounds {
  readonly readyMs: number | null;
  readonly residentIdleBytes: number;
  readonly residentWarmBytes: number;
  readonly residentPeakBytes: number | null;
  readonly http: readonly HttpRound[];
  /** One a round, on the same windows; empty when a server elsewhere was measured. */
  readonly engine: readonly EngineMeasured[];
}

/** Bytes resident after so many requests. */
export interface MemoryPoint {
  readonly requests: number;
  readonly residentBytes: number;
}

/** What disagrees between client and server; empty when every request got exactly one answer and all tokens were counted. */
export function disagreements(load: LoadResult, server: ServerCounts, requests: number): string[] {
  const expect = (what: string, found: number, wanted: number) =>
    found === wanted ? [] : [`${what}: ${found} instead of ${wanted}`];
  return [
    ...expect('answers at the client', load.answers, requests),
    ...expect('answers 200 at the client', load.ok, requests),
    ...expect('errors at the client', load.errors, 0),
    ...(load.refusal === null ? [] : [`the first answer without a result: ${load.refusal}`]),
    ...expect('requests OK at the server', server.ok, load.ok),
    ...expect('other requests at the server', server.others, 0),
    ...expect('tokens in the answers', load.tokens, load.tokensSent),
    ...expect('tokens at the server', server.tokens, load.tokens),
  ];
}

const MIB = 1024 * 1024;

export function renderClosed({ http, engine, ...memory }: ClosedRounds): string {
  const rates = http.map(({ load }) => load.tokens / load.seconds);
  const engineRates = engine.map(({ tokens, seconds }) => tokens / seconds);
  const latencies = http.flatMap(({ load }) => load.latenciesMs);
  const live = http.flatMap(({ liveness }) => liveness.latenciesMs);
  const lag = spread(http.map(({ eventLoopLagP99Ms }) => eventLoopLagP99Ms));
  const bytes = (value: number | null) => (value === null ? 'unknown' : `${(value / MIB).toFixed(0)} MiB`);
  const rows = [
    ['HTTP, tokens/s', spreadText(spread(rates), 0)],
    ['HTTP, requests/s', spreadText(spread(http.map(({ load }) => load.answers / load.seconds)), 1)],
    ['latency p50, p99', `${quantile(latencies, 0.5).toFixed(0)}, ${quantile(latencies, 0.99).toFixed(0)} ms`],
  ];
  if (engineRates.length > 0) {
    const share = ratioSpread(rates, engineRates);
    rows.push(['engine alone, tokens/s', spreadText(spread(engineRates), 0)]);
    rows.push(['HTTP over engine alone', `${spreadText(share, 3)}   wanted: at least 0.95`]);
  }
  const worst = (of: (round: HttpRound) => number) => Math.max(...http.map(of)).toFixed(1);
  rows.push(
    ['event-loop lag p99', `${spreadText(lag, 1)} ms   wanted: at most 10`],
    ['event-loop lag max', `${worst((round) => round.eventLoopLagMaxMs)} ms`],
    [
      '  of the client p99, max',
      `${worst((round) => round.clientLagP99Ms)}, ${worst((round) => round.clientLagMaxMs)} ms`,
    ],
  );
  if (live.length > 0) {
    rows.push([
      '/health/live p50, p99, max',
      `${[0.5, 0.99, 1].map((share) => quantile(live, share).toFixed(1)).join(', ')} ms of ${live.length}   wanted: p99 at most 20`,
    ]);
  }
  rows.push(
    ['/health/live failed', String(http.reduce((sum, { liveness }) => sum + liveness.failures, 0))],
    [
      'resident idle, warm, end, peak',
      `${[memory.residentIdleBytes, memory.residentWarmBytes, http.at(-1)?.residentBytes ?? null, memory.residentPeakBytes].map(bytes).join(', ')}   wanted: at most 400 MB (381 MiB)`,
    ],
    ['CPU of server, of client', cpuText(http)],
    ['CPU a token of server, of engine alone, us', cpuPerToken(http, engine)],
  );
  if (memory.readyMs !== null)
    rows.push(['start to ready', `${(memory.readyMs / 1000).toFixed(2)} s   wanted: at most 3`]);
  return table(rows);
}

/** CPU microseconds a token costs the server, and the engine alone. */
function cpuPerToken(http: readonly HttpRound[], engine: readonly EngineMeasured[]): string {
  const server = spread(http.map(({ load, serverCpuSeconds }) => (serverCpuSeconds / load.tokens) * 1e6));
  if (engine.length === 0) return spreadText(server, 0);
  return `${spreadText(server, 0)}, ${spreadText(spread(engine.map(({ cpuSeconds, tokens }) => (cpuSeconds / tokens) * 1e6)), 0)}`;
}

function cpuText(http: readonly HttpRound[]): string {
  const cores = (of: (round: HttpRound) => number) =>
    (http.reduce((sum, round) => sum + of(round), 0) / http.reduce((sum, { load }) => sum + load.seconds, 0)).toFixed(
      2,
    );
  return `${cores((round) => round.serverCpuSeconds)}, ${cores((round) => round.clientCpuSeconds)} cores`;
}

function spreadText({ median, min, max }: Spread, digits: number): string {
  return `${median.toFixed(digits)} (${min.toFixed(digits)} to ${max.toFixed(digits)})`;
}

/** Memory that grows by more than this over the run, by the fitted line, is not flat. */
const FLAT_SHARE_MAX = 0.03;

export interface MemoryTrend {
  readonly bytesPerThousandRequests: number;
  /** By the fitted line, from the first point to the last. */
  readonly growthBytes: number;
  readonly flat: boolean;
}

/** @param points at least two; the first one should be warm, or the warming is fitted too */
export function memoryTrend(points: readonly MemoryPoint[]): MemoryTrend {
  const { slope } = linearFit(points.map(({ requests, residentBytes }) => [requests, residentBytes]));
  const first = points[0] as MemoryPoint;
  const last = points.at(-1) as MemoryPoint;
  const growthBytes = slope * (last.requests - first.requests);
  return {
    bytesPerThousandRequests: slope * 1000,
    growthBytes,
    flat: growthBytes <= FLAT_SHARE_MAX * first.residentBytes,
  };
}

export function renderMemory(points: readonly MemoryPoint[], trend: MemoryTrend): string {
  const rows = points.map(({ requests, residentBytes }) => [
    String(requests),
    `${(residentBytes / MIB).toFixed(1)} MiB`,
  ]);
  const { bytesPerThousandRequests, growthBytes, flat } = trend;
  return (
    table([['requests', 'resident'], ...rows], [0, 1]) +
    `\n${flat ? 'flat' : 'GROWS'}: ${(bytesPerThousandRequests / 1024).toFixed(1)} KiB per 1,000 requests, ` +
    `${(growthBytes / MIB).toFixed(1)} MiB over the run (flat: at most ${FLAT_SHARE_MAX * 100} % of the first point)\n`
  );
}
