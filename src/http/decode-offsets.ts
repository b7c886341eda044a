import { setImmediate } from 'node:timers/promises';
import type { Encoded, Tokenizer } from '../tokenize/types.js';

const REPLACEMENT = '\uFFFD';
/** Tokens decoded between two turns of the event loop: about a millisecond. */
const TOKENS_PER_TURN = 2048;
/** A character has at most four bytes, so groups are short; the bound keeps invalid byte sequences from making it quadratic. */
const GROUP_TOKENS_MAX = 16;

/**
 * Where each of the given tokens begins in the text they decode to. Tokens are decoded in groups: a group ends where the next
 * token begins a character of its own, which shows in that decoding both does not change what the group alone decodes to.
 */
export async function decodeWithOffsets(tokenizer: Tokenizer, ids: Int32Array): Promise<Encoded> {
  const offsets = new Int32Array(ids.length + 1);
  let groupStart = 0;
  let groupOffset = 0;
  let groupText = '';
  let bytes = 0;
  for (let i = 0; i < ids.length; i++) {
    if (i > 0 && i % TOKENS_PER_TURN === 0) await setImmediate();
    const text = tokenizer.decode(ids.subarray(groupStart, i + 1));
    if (i > groupStart && beginsCharacter(groupText, text, i - groupStart)) {
      groupOffset += groupText.length;
      bytes += Buffer.byteLength(groupText);
      groupStart = i;
      groupText = tokenizer.decode(ids.subarray(i, i + 1));
      offsets[i] = groupOffset;
    } else {
      // The token continues the character that the group so far shows as one U+FFFD at its end.
      offsets[i] = groupOffset + Math.max(0, groupText.length - (i > groupStart ? 1 : 0));
      groupText = text;
    }
  }
  offsets[ids.length] = groupOffset + groupText.length;
  return { ids, offsets, bytes: bytes + Buffer.byteLength(groupText) };
}

function beginsCharacter(before: string, after: string, groupTokens: number): boolean {
  if (!before.endsWith(REPLACEMENT) || groupTokens >= GROUP_TOKENS_MAX) return true;
  return after.length > before.length && after.startsWith(before);
}
