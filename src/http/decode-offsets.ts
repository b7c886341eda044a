import { setImmediate } from 'node:timers/promises';
import type { Encoded, Tokenizer } from '../tokenize/types.js';

const REPLACEMENT = '\uFFFD';
/** Tokens decoded between two turns of the event loop: about a millisecond. */
const TOKENS_PER_TURN = 2048;
/** A character has at most four bytes, so groups are short; the bound keeps invalid byte sequences from making it quadratic. */
const GROUP_TOKENS_MAX = 16;

/** Of each token: its length in UTF-16 units if its bytes are characters by themselves. */
const UNKNOWN = -2;
const IN_PARTS = -1;

class WholeTokens {
  private readonly units: Int16Array;
  private readonly bytes: Uint16Array;

  constructor(private readonly tokenizer: Tokenizer) {
    this.units = new Int16Array(tokenizer.vocabularySize).fill(UNKNOWN);
    this.bytes = new Uint16Array(tokenizer.vocabularySize);
  }

  /** UTF-16 units, or IN_PARTS for a token that adds no text of its own, such as part of a character. */
  unitsOf(id: number): number {
    const known = this.units[id] as number;
    if (known !== UNKNOWN) return known;
    const text = this.tokenizer.decode([id]);
    const bytes = this.tokenizer.textBytes(id).length;
    // What is no character by itself decodes to U+FFFD, which is longer or ends the text.
    const whole = text !== '' && !text.includes(REPLACEMENT) && Buffer.byteLength(text) === bytes && bytes < 2 ** 15;
    this.units[id] = whole ? text.length : IN_PARTS;
    this.bytes[id] = bytes;
    return this.units[id] as number;
  }

  bytesOf(id: number): number {
    return this.bytes[id] as number;
  }
}

const wholeTokens = new WeakMap<Tokenizer, WholeTokens>();

function wholeTokensOf(tokenizer: Tokenizer): WholeTokens {
  let whole = wholeTokens.get(tokenizer);
  if (whole === undefined) {
    whole = new WholeTokens(tokenizer);
    wholeTokens.set(tokenizer, whole);
  }
  return whole;
}

/**
 * Where each of the given tokens begins in the text they decode to. A token of whole characters begins one, and its length is known. The
 * others are decoded in groups: a group ends where the next token begins a character of its own, which shows in that decoding both does
 * not change what the group alone decodes to.
 */
export async function decodeWithOffsets(tokenizer: Tokenizer, ids: Int32Array): Promise<Encoded> {
  const whole = wholeTokensOf(tokenizer);
  const offsets = new Int32Array(ids.length + 1);
  /** Where the group begins, among the tokens and in the text. */
  let groupStart = 0;
  let groupOffset = 0;
  /** The text of the group; null: it is one token of whole characters. */
  let groupText: string | null = '';
  let bytes = 0;
  const close = () => {
    const id = ids[groupStart] as number;
    groupOffset += groupText === null ? whole.unitsOf(id) : groupText.length;
    bytes += groupText === null ? whole.bytesOf(id) : Buffer.byteLength(groupText);
  };
  for (let i = 0; i < ids.length; i++) {
    if (i > 0 && i % TOKENS_PER_TURN === 0) await setImmediate();
    if (whole.unitsOf(ids[i] as number) !== IN_PARTS) {
      if (i > 0) close();
      offsets[i] = groupOffset;
      groupStart = i;
      groupText = null;
      continue;
    }
    const before: string = groupText ?? tokenizer.decode(ids.subarray(groupStart, i));
    const text = tokenizer.decode(ids.subarray(groupStart, i + 1));
    if (i > groupStart && beginsCharacter(before, text, i - groupStart)) {
      close();
      groupStart = i;
      groupText = tokenizer.decode(ids.subarray(i, i + 1));
      offsets[i] = groupOffset;
    } else {
      // The token continues the character that the group so far shows as one U+FFFD at its end.
      offsets[i] = groupOffset + Math.max(0, before.length - (i > groupStart ? 1 : 0));
      groupText = text;
    }
  }
  if (ids.length > 0) close();
  offsets[ids.length] = groupOffset;
  return { ids, offsets, bytes };
}

function beginsCharacter(before: string, after: string, groupTokens: number): boolean {
  if (!before.endsWith(REPLACEMENT) || groupTokens >= GROUP_TOKENS_MAX) return true;
  return after.length > before.length && after.startsWith(before);
}
