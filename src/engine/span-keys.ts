/**
 * What a text costs in keys: a function of its length, of its cap and of the blocks it is cut into. Pure.
 *
 * A head is asked for `min(z, cap) + ramp` keys before each token. It computes more: its group's pool is as long as the widest head of
 * the group, and a unit of m queries is multiplied with the keys of all of them, so m more.
 */
import type { SpanDescription } from '../models/description.js';
import { OPEN_END, unitLength } from '../scheduler/span-blocks.js';

const REACH_MULTIPLE = 16;

/** Keys that no head looks further than under a cap on z; a multiple of 16, so that few different caps need steps of their own. */
export function reachOf({ spanMax, ramp }: SpanDescription, spanCap: number | null): number {
  if (spanCap === null) return spanMax;
  return Math.min(spanMax, Math.ceil((spanCap + ramp) / REACH_MULTIPLE) * REACH_MULTIPLE);
}

/** Keys of each layer and head whose weight can be above 0 under a cap; for the dynamic kind an upper limit. */
function keysUnder({ keys, ramp }: SpanDescription, spanCap: number | null): number[][] {
  const most = spanCap === null ? Number.POSITIVE_INFINITY : Math.ceil(spanCap) + ramp;
  return keys.map((heads) => heads.map((head) => Math.min(head, most)));
}

/** Mean over all heads of the keys that a token looks at. */
export function meanSpan(span: SpanDescription, spanCap: number | null): number {
  const all = keysUnder(span, spanCap).flat();
  return sum(all) / all.length;
}

export function headCount({ keys }: SpanDescription): number {
  return keys.flat().length;
}

/** Keys that a unit of `length` tokens computes for each of them, over all heads. */
export function computedKeys({ groups }: SpanDescription, reach: number, length: number): number {
  return sum(groups.flat().map(({ heads, span }) => heads.length * (Math.min(span, reach) + length)));
}

/**
 * Keys computed for a text of `tokens`, over all its units and heads.
 * @param before tokens that the session had before it; null: no session
 */
export function computedKeysOfText(
  span: SpanDescription,
  spanCap: number | null,
  tokens: number,
  before: number | null,
  blockTokens: number,
): number {
  const unit = unitLength(before === null ? tokens : OPEN_END, blockTokens);
  // Those since the session's last whole unit are computed again.
  const rows = Math.ceil((((before ?? 0) % unit) + tokens) / unit) * unit;
  return rows * computedKeys(span, reachOf(span, spanCap), unit);
}

/**
 * Multiplications of attention for one key of one head: with the query, with the relative position, and of the weight with the
 * value.
 */
export function keyMultiplications({ headWidth }: SpanDescription): number {
  return 3 * headWidth;
}

/** Bytes of keys and values that one lane holds: the sum of its groups' rings, not the length of its text. */
export function laneCacheBytes({ groups, headWidth }: SpanDescription, blockTokens: number): number {
  const rows = sum(groups.flat().map(({ heads, span }) => heads.length * (span + blockTokens)));
  return rows * headWidth * 2 * Float32Array.BYTES_PER_ELEMENT;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
