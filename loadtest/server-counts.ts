/** What the server counted between two scrapes, compared with what the client saw: they must agree exactly. Pure but for the waiting. */
import { setTimeout as sleep } from 'node:timers/promises';
import { RENEWED_ROW_COST, realisedBoundShare } from '../src/metrics/observe.js';
import type { Answer } from './open-client.js';
import { type Scrape, scrape } from './server.js';

const ROUTES = ['/v1/score', '/v1/translate'] as const;

export interface Counted {
  /** Requests by `route outcome`. */
  readonly outcomes: Readonly<Record<string, number>>;
  readonly tokens: number;
  readonly sourceTokens: number;
  readonly targetTokens: number;
}

export function countAnswers(answers: readonly Answer[]): Counted {
  const outcomes: Record<string, number> = {};
  const sum = (of: (reply: NonNullable<Answer['reply']>) => number) =>
    answers.reduce((total, { reply }) => total + (reply === null ? 0 : of(reply)), 0);
  for (const { planned, outcome } of answers) {
    const key = `${planned.path} ${outcome}`;
    outcomes[key] = (outcomes[key] ?? 0) + 1;
  }
  return {
    outcomes,
    tokens: sum((reply) => reply.tokens),
    sourceTokens: sum((reply) => reply.sourceTokens),
    targetTokens: sum((reply) => reply.targetTokens),
  };
}

export function countedBetween(before: Scrape, after: Scrape): Counted {
  const grown = (name: string, ...labels: string[]) => after.sum(name, ...labels) - before.sum(name, ...labels);
  const outcomes: Record<string, number> = {};
  for (const route of ROUTES) {
    for (const outcome of after.values('ponder_requests_total', 'outcome')) {
      const count = grown('ponder_requests_total', `route="${route}"`, `outcome="${outcome}"`);
      if (count > 0) outcomes[`${route} ${outcome}`] = count;
    }
  }
  return {
    outcomes,
    tokens: grown('ponder_tokens_total'),
    sourceTokens: grown('ponder_source_tokens_total'),
    targetTokens: grown('ponder_generation_tokens_total'),
  };
}

/** Every line is a request without exactly one answer, or a figure on which client and server do not agree. */
export function disagreementsOf(sent: number, client: Counted, server: Counted): string[] {
  const problems: string[] = [];
  const expect = (what: string, found: number, wanted: number) => {
    if (found !== wanted) problems.push(`${what}: ${found} at the server, ${wanted} at the client`);
  };
  const answered = Object.values(client.outcomes).reduce((sum, count) => sum + count, 0);
  if (answered !== sent) problems.push(`${sent} requests were sent and ${answered} answered`);
  for (const key of new Set([...Object.keys(client.outcomes), ...Object.keys(server.outcomes)])) {
    expect(key, server.outcomes[key] ?? 0, client.outcomes[key] ?? 0);
  }
  for (const field of ['tokens', 'sourceTokens', 'targetTokens'] as const) expect(field, server[field], client[field]);
  return problems;
}

/** The server counts a request when its connection has taken the reply, which may be after the client has read it. */
const COUNTED_WITHIN_MS = 3000;

export async function settledScrape(url: string, before: Scrape, answers: number): Promise<Scrape> {
  let after = await scrape(url);
  for (let waitedMs = 0; waitedMs < COUNTED_WITHIN_MS; waitedMs += 100) {
    const counted = Object.values(countedBetween(before, after).outcomes).reduce((sum, count) => sum + count, 0);
    if (counted >= answers) break;
    await sleep(100);
    after = await scrape(url);
  }
  return after;
}

/** Realised share of the depth bound between two scrapes, by stage of each model. */
export function realisedShares(before: Scrape, after: Scrape): Record<string, number> {
  const shares: Record<string, number> = {};
  for (const model of after.values('ponder_position_steps_total', 'model')) {
    for (const stage of ['score', 'encoder', 'decoder'] as const) {
      const grown = (name: string) =>
        after.sum(name, `model="${model}"`, `stage="${stage}"`) -
        before.sum(name, `model="${model}"`, `stage="${stage}"`);
      const rows = grown('ponder_position_steps_total') + grown('ponder_key_renewals_total') * RENEWED_ROW_COST[stage];
      if (rows > 0) shares[`${model} ${stage}`] = realisedBoundShare(grown('ponder_halting_step_sum'), rows);
    }
  }
  return shares;
}
