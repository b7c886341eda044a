/**
 * How a text is cut for a model with attention spans. Pure.
 *
 * A lane advances by blocks; a block is computed as units, each with its own window of keys. Attention sums over a unit's window, so
 * with units of one length, whatever the block's, a score does not depend on `--span-block-tokens`. A text shorter than a unit is
 * one of its own length.
 *
 *   text of 300, blocks of 128:   64 64 | 64 64 | 64 (44 tokens, padded)
 *   text of 20:                   32
 */

export const UNIT_TOKENS = 64;
const SHORT_MULTIPLE = 16;

/** Whether blocks may be of this length: whole units, or less than one. */
export function isBlockLength(tokens: number): boolean {
  return tokens % (tokens < UNIT_TOKENS ? SHORT_MULTIPLE : UNIT_TOKENS) === 0;
}

/** Tokens of each unit of a text of `tokens`, padding included. */
export function unitLength(tokens: number, blockTokens: number): number {
  return Math.min(UNIT_TOKENS, blockTokens, roundedUp(tokens, SHORT_MULTIPLE));
}

/** Tokens of the next block of a text of `tokens` of which `left` are left, padding included: a whole number of units. */
export function blockLength(tokens: number, left: number, blockTokens: number): number {
  return Math.min(blockTokens, roundedUp(left, unitLength(tokens, blockTokens)));
}

/** Tokens of each unit of a block. */
export function unitOfBlock(blockTokens: number): number {
  return Math.min(UNIT_TOKENS, blockTokens);
}

function roundedUp(count: number, multiple: number): number {
  return Math.ceil(count / multiple) * multiple;
}
