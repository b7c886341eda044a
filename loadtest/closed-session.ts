/** What the parts of the closed load test share: the server, the texts, and how one load is counted on both sides. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Piece } from './closed-load.js';
import type { ServerCounts } from './closed-report.js';
import { type Scrape, type ServerUnderTest, scrape } from './server.js';

export interface Options {
  readonly connections: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly length: number;
  readonly requests: number | null;
  readonly url: string | null;
  readonly file: string | null;
}

export interface Session {
  /** Its name in requests. */
  readonly model: string;
  readonly server: ServerUnderTest;
  readonly pieces: readonly Piece[];
  readonly options: Options;
  readonly stop: AbortSignal;
  readonly say: (text: string) => void;
}

/** What a test has to say. */
export interface Outcome {
  readonly result: object;
  readonly text: string;
  readonly problems: readonly string[];
}

/** The server counts a request when its connection has taken the reply, which may be after the client has read it. */
const COUNTED_WITHIN_MS = 2000;
/** The counts between two scrapes, waiting for those of requests whose replies are already here. */
export async function settledCounts(
  url: string,
  before: Scrape,
  after: Scrape,
  requests: number,
): Promise<ServerCounts> {
  let counts = countsBetween(before, after);
  for (let waitedMs = 0; counts.ok + counts.others < requests && waitedMs < COUNTED_WITHIN_MS; waitedMs += 50) {
    await sleep(50);
    counts = countsBetween(before, await scrape(url));
  }
  return counts;
}

function countsBetween(before: Scrape, after: Scrape): ServerCounts {
  const grown = (name: string, ...labels: string[]) => after.sum(name, ...labels) - before.sum(name, ...labels);
  const route = 'route="/v1/score"';
  const ok = grown('ponder_requests_total', route, 'outcome="OK"');
  return { ok, others: grown('ponder_requests_total', route) - ok, tokens: grown('ponder_tokens_total') };
}

export function residentOf(samples: Scrape): number {
  return samples.sum('process_resident_memory_bytes');
}
