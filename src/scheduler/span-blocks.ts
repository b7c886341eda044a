/**
 * How a text is cut for a model with attention spans. Pure.
 *
 * A lane advances by blocks; a block is computed as units, each with its own window of keys. Attention sums over a unit's window, so
 * with units of one length, whatever the block's, a score does not depend on `--span-block-tokens` (of 64 or more). A text shorter than a
 * unit is one of its own length, but not in a session: its parts are units of the whole.
 *
 *   text of 300, blocks of 128:   64 64 | 64 64 | 64 (44 tokens, padded)
 *   text of 20:                   32
 */
import { SPAN_SHORT_MULTIPLE, SPAN_UNIT_TOKENS } from '../config.js';

/** Tokens of a text whose end is not known: one that a session may append to. */
export const OPEN_END = Number.POSITIVE_INFINITY;

/** Tokens of each unit of a text of `tokens`, padding included. */
export function unitLength(tokens: number, blockTokens: number): number {
  return Math.min(SPAN_UNIT_TOKENS, blockTokens, roundedUp(tokens, SPAN_SHORT_MULTIPLE));
}

/** Tokens of the next block of a text of `tokens` of which `left` are left, padding included: a whole number of units. */
export function blockLength(tokens: number, left: number, blockTokens: number): number {
  return Math.min(blockTokens, roundedUp(left, unitLength(tokens, blockTokens)));
}

/** Tokens of each unit of a block. */
export function unitOfBlock(blockTokens: number): number {
  return Math.min(SPAN_UNIT_TOKENS, blockTokens);
}

function roundedUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
