/**
 * Cuts a text into the pieces that byte-pair merges never cross: what the pre-tokenizers `Digits(individual_digits)` and
 * `ByteLevel(use_regex)` of tokenizer.json do one after the other, in one pass. The regular expression of ByteLevel is
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * and Digits has already cut the text around every number, so a number stands alone, never takes the space before it, and
 * counts as the end of the text for `(?!\S)`: "a  5" is "a", "  ", "5" while "a  b" is "a", " ", " b".
 */
import { type CodePointClass, classOf, LETTER, NUMBER, OTHER, SPACE, utf16Length } from './code-points.js';

/** Code units scanned before `extend` hands back control: about 0.1 ms. */
const SCAN_UNITS_MAX = 16_384;
const BLANK = 0x20;
const APOSTROPHE = 0x27;

export class PieceScanner {
  /** Where the piece ends (exclusive); final once `begin` or `extend` returned true. */
  end = 0;
  #start = 0;
  #class: CodePointClass = OTHER;

  constructor(private readonly text: string) {}

  /** Moves to the piece that starts at `start`, which must lie within the text. False: call `extend` until it returns true. */
  begin(start: number): boolean {
    this.#start = start;
    const first = this.text.codePointAt(start) as number;
    const firstClass = classOf(first);
    this.end = start + utf16Length(first);
    this.#class = firstClass;
    switch (firstClass) {
      case NUMBER:
        return true;
      case SPACE: {
        const next = this.#classAt(this.end);
        // One blank goes with the word after it; any other single space is a piece of its own.
        if (first === BLANK && (next === LETTER || next === OTHER)) this.#class = next;
        return this.extend();
      }
      case OTHER:
        if (first === APOSTROPHE) {
          const length = contractionLength(this.text, start);
          if (length > 0) {
            this.end = start + length;
            return true;
          }
        }
        return this.extend();
      case LETTER:
        return this.extend();
      default:
        return firstClass satisfies never;
    }
  }

  /** Follows the run of one class for at most `SCAN_UNITS_MAX` units; true when the piece is complete. */
  extend(): boolean {
    const { text } = this;
    const limit = Math.min(text.length, this.end + SCAN_UNITS_MAX);
    let at = this.end;
    while (at < limit) {
      const codePoint = text.codePointAt(at) as number;
      if (classOf(codePoint) !== this.#class) break;
      at += utf16Length(codePoint);
    }
    this.end = at;
    if (at >= limit && at < text.length) return false;
    if (this.#class === SPACE && at - this.#start > 1) {
      // `\s+(?!\S)`: a run of spaces leaves its last one to what follows, unless that is a number or the end.
      const next = this.#classAt(at);
      if (next === LETTER || next === OTHER) this.end = at - 1;
    }
    return true;
  }

  #classAt(at: number): CodePointClass | null {
    return at < this.text.length ? classOf(this.text.codePointAt(at) as number) : null;
  }
}

/** Units of the English contraction that starts at an apostrophe: 's 't 'm 'd are 2, 're 've 'll are 3, anything else is 0. */
function contractionLength(text: string, at: number): 0 | 2 | 3 {
  switch (text[at + 1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text[at + 2] === 'e' ? 3 : 0;
    case 'l':
      return text[at + 2] === 'l' ? 3 : 0;
    default:
      return 0;
  }
}
