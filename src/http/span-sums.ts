/** Sums over the blocks of a text, and what a reply makes of them. */
import type { SpanBlockResult } from '../engine/protocol.js';
import { computedKeysOfText, headCount, meanSpan } from '../engine/span-keys.js';
import { ServerError } from '../errors.js';
import type { SpanOrder } from './span-run.js';
import type { SpanScoreResult, SpanUsage } from './span-schemas.js';

export class SpanSums {
  logprob = 0;
  /** Sum of the tokens' mean spans; only where spans depend on the token. */
  spans = 0;

  add({ logprobs, topLogprobs, spans }: SpanBlockResult): void {
    for (const logprob of logprobs) this.logprob += logprob;
    for (const span of spans) this.spans += span;
    // JSON could not say it: the sum is checked once, at the end.
    if (!topLogprobs.every(Number.isFinite)) this.logprob = Number.NaN;
  }
}

/** What is needed of a text: how long it is. */
export interface TextLength {
  readonly ids: { readonly length: number };
  readonly bytes: number;
}

type Order = Pick<SpanOrder, 'model' | 'settings'>;

/**
 * Everything about one text but its tokens.
 * @throws ServerError INTERNAL if the model returned something that is no number
 */
export function spanResult(
  index: number,
  { ids, bytes }: TextLength,
  sums: SpanSums,
  { model, settings }: Order,
  uncapped: SpanSums | null,
): SpanScoreResult {
  const { logprob } = sums;
  if (!Number.isFinite(logprob)) {
    throw new ServerError('INTERNAL', `the model returned a value that is not finite for input ${index}`);
  }
  const bits = (nats: number): number | null => (bytes === 0 ? null : nats / (bytes * Math.LN2));
  const lost = uncapped === null ? null : uncapped.logprob - logprob;
  return {
    index,
    logprob,
    bytes,
    bits_per_byte: bits(-logprob),
    perplexity: Math.min(Math.exp(-logprob / ids.length), Number.MAX_VALUE),
    span: {
      mean: keysOf(sums, ids.length, model.span, settings.spanCap) / (ids.length * headCount(model.span)),
      ...(lost === null ? {} : { cost: { logprob: lost, bits_per_byte: bits(lost) } }),
    },
  };
}

export function spanUsage(
  texts: readonly TextLength[],
  sums: readonly SpanSums[],
  uncapped: readonly SpanSums[] | null,
  { model, settings }: Order,
  /** Tokens that the session had before; null: no session. */
  before: number | null,
  blockTokens: number,
): SpanUsage {
  const { span } = model;
  const usage = { tokens: 0, keys: 0, keys_computed: 0, keys_full: 0 };
  const count = (tokens: number, sum: SpanSums, cap: number | null): void => {
    usage.keys += keysOf(sum, tokens, span, cap);
    usage.keys_computed += computedKeysOfText(span, cap, tokens, before, blockTokens);
    usage.keys_full += tokens * headCount(span) * span.spanMax;
  };
  for (const [i, { ids }] of texts.entries()) {
    usage.tokens += ids.length;
    count(ids.length, sums[i] as SpanSums, settings.spanCap);
    if (uncapped !== null) count(ids.length, uncapped[i] as SpanSums, null);
  }
  return usage;
}

/** Keys that the heads of a text's tokens looked at. A mean over heads times their number is whole but for rounding. */
function keysOf(sums: SpanSums, tokens: number, span: Order['model']['span'], cap: number | null): number {
  const spans = span.kind === 'dynamic' ? sums.spans : meanSpan(span, cap) * tokens;
  return Math.round(spans * headCount(span));
}
