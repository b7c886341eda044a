/** One scoring with a model that has attention spans, from inputs to what is told of it. */
import { monotonicMs } from '../clock.js';
import type { SpanListener, SpanOutcome } from '../engine/engine.js';
import type { SpanBlockResult } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription, SpanDescription } from '../models/description.js';
import type { Encoded } from '../tokenize/types.js';
import type { AppDeps } from './deps.js';
import type { RequestExit } from './request-exit.js';
import type { ScoreInput } from './score-input.js';
import { encodeInput } from './score-work.js';
import type { SpanScoreReply } from './span-schemas.js';
import type { SpanSettings } from './span-settings.js';
import { SpanSums, spanResult, spanUsage } from './span-sums.js';
import { roundMs } from './timing.js';
import { tokenizerOf } from './tokenizers.js';

/** Hears of each block of each text, in order; the engine waits for it when it is behind. */
export type SpanProgress = (
  index: number,
  start: number,
  encoded: Encoded,
  result: SpanBlockResult,
) => void | Promise<void>;

export interface SpanOrder {
  readonly model: ModelDescription & { readonly span: SpanDescription };
  readonly inputs: readonly ScoreInput[];
  readonly settings: SpanSettings;
  /** The session as its client calls it. */
  readonly sessionName?: string | undefined;
  readonly progress?: SpanProgress;
}

export interface SpanScoring {
  /** Without tokens. */
  readonly reply: SpanScoreReply;
  readonly encoded: readonly Encoded[];
  /** One per text; empty where tokens are not returned, or were told of block by block. */
  readonly results: readonly SpanBlockResult[];
}

/** @throws ServerError as `encodeInput` and `Engine.scoreStream` do, and DEADLINE_EXCEEDED */
export async function runSpanScore(deps: AppDeps, exit: RequestExit, order: SpanOrder): Promise<SpanScoring> {
  const { model, settings, progress, sessionName } = order;
  const deadlineAtMs = settings.deadlineMs === null ? null : exit.startedAtMs + settings.deadlineMs;
  const tokenizeFromMs = monotonicMs();
  const encoded = await encodeAll(deps, exit, order);
  const tokenizeMs = monotonicMs() - tokenizeFromMs;
  if (deadlineAtMs !== null && monotonicMs() > deadlineAtMs) {
    throw new ServerError('DEADLINE_EXCEEDED', 'the deadline passed while the text was tokenised: raise deadline_ms');
  }

  const { spanCap, topLogprobs, session, returnTokens } = settings;
  const sums = encoded.map(() => new SpanSums());
  const listener: SpanListener = (index, start, result) => {
    sums[index]?.add(result);
    return progress?.(index, start, encoded[index] as Encoded, result);
  };
  const failure = new AbortController();
  const signal = AbortSignal.any([exit.signal, failure.signal]);
  const run = (cap: number | null, top: number, heard?: SpanListener): Promise<SpanOutcome> => {
    // Copies: what is sent leaves this thread, and each request has its own.
    const texts = encoded.map(({ ids }) => ids.slice());
    const { tenant } = exit;
    const request = { model: model.id, texts, spanCap: cap, topLogprobs: top, session, deadlineAtMs, tenant };
    return deps.engine.scoreStream(request, signal, heard);
  };
  const uncapped = settings.spanCost ? encoded.map(() => new SpanSums()) : null;
  const held = returnTokens && progress === undefined;
  const [outcome] = await allOrNone(failure, [
    run(spanCap, topLogprobs, held ? undefined : listener),
    ...(uncapped === null ? [] : [run(null, 0, (index, _, result) => uncapped[index]?.add(result))]),
  ]);
  if (outcome === undefined) throw new Error('a scoring has no outcome');
  for (const [i, result] of outcome.texts.entries()) if (held) sums[i]?.add(result);

  const results = encoded.map((text, i) => spanResult(i, text, sums[i] as SpanSums, order, uncapped?.[i] ?? null));
  const { queueMs, computeMs, position } = outcome;
  const totalMs = monotonicMs() - exit.startedAtMs;
  const tokens = encoded.reduce((sum, { ids }) => sum + ids.length, 0);
  const before = session === null ? null : position - tokens;
  const usage = spanUsage(encoded, sums, uncapped, order, before, deps.config.spanBlockTokens);
  deps.observer.scored({ model: model.id, tokens, histogram: null, queueMs, tokenizeMs, computeMs, totalMs });
  const timing = {
    queue_ms: roundMs(queueMs),
    tokenize_ms: roundMs(tokenizeMs),
    compute_ms: roundMs(computeMs),
    total_ms: roundMs(totalMs),
  };
  const state = session === null ? {} : { session: { key: sessionName ?? '', tokens: position, open: !session.ends } };
  return { reply: { model: model.id, results, ...state, usage, timing }, encoded, results: outcome.texts };
}

async function encodeAll(
  { tokenizers }: AppDeps,
  exit: RequestExit,
  { model, inputs }: SpanOrder,
): Promise<readonly Encoded[]> {
  const encoded: Encoded[] = [];
  for (const input of inputs) encoded.push(await encodeInput(input, tokenizerOf(tokenizers, model), exit.signal));
  return encoded;
}

/** When one of them fails the others are given up. */
async function allOrNone<T>(failure: AbortController, work: readonly Promise<T>[]): Promise<T[]> {
  try {
    return await Promise.all(work);
  } catch (error) {
    failure.abort();
    await Promise.allSettled(work);
    throw error;
  }
}
