/**
 * The four kinds of code point that byte-level pre-tokenisation tells apart, as a table. A regular expression over the whole
 * text would be shorter, but `\p{L}+` keeps a backtracking entry per character, so one run of millions of letters exhausts its
 * stack, and a match cannot be interrupted; a table lookup per character has neither fault and is faster.
 *
 * The classes are those of the Rust implementation, not of JavaScript's shorthands: space is White_Space (U+0085 is one,
 * U+FEFF is not, unlike `\s`), number is Nd, Nl and No (unlike `\d`, which the JavaScript port of the tokenizer uses). Which
 * code points have them depends on the Unicode version: Node 20.20 knows 17.0 and the Python package 0.23.3 an older one, so
 * 4,644 letters assigned since are letters here and other characters there; on all the rest of Unicode the two agree.
 */
export const OTHER = 0;
export const SPACE = 1;
export const LETTER = 2;
export const NUMBER = 3;
export type CodePointClass = typeof OTHER | typeof SPACE | typeof LETTER | typeof NUMBER;

const BLOCK_BITS = 12;
const BLOCK_SIZE = 1 << BLOCK_BITS;

/** Filled block by block when a text first needs one: all 272 would cost 100 ms at start, and most texts touch two. */
const blocks: (Uint8Array | undefined)[] = new Array((0x10ffff >> BLOCK_BITS) + 1);

export function classOf(codePoint: number): CodePointClass {
  const block = blocks[codePoint >> BLOCK_BITS] ?? fillBlock(codePoint >> BLOCK_BITS);
  return block[codePoint & (BLOCK_SIZE - 1)] as CodePointClass;
}

function fillBlock(index: number): Uint8Array {
  const block = new Uint8Array(BLOCK_SIZE);
  for (let i = 0; i < BLOCK_SIZE; i++) {
    const character = String.fromCodePoint(index * BLOCK_SIZE + i);
    if (/\p{L}/u.test(character)) block[i] = LETTER;
    else if (/\p{N}/u.test(character)) block[i] = NUMBER;
    else if (/\p{White_Space}/u.test(character)) block[i] = SPACE;
  }
  blocks[index] = block;
  return block;
}

/** Bytes of a code point in UTF-8; a lone surrogate counts as the U+FFFD that replaces it. */
export function utf8Length(codePoint: number): 1 | 2 | 3 | 4 {
  if (codePoint < 0x80) return 1;
  if (codePoint < 0x800) return 2;
  return codePoint < 0x10000 ? 3 : 4;
}

/** Code units of a code point in a JavaScript string. */
export function utf16Length(codePoint: number): 1 | 2 {
  return codePoint < 0x10000 ? 1 : 2;
}
