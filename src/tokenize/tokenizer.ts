/**
 * Text to token ids and back, for the tokenizers of this project's models: byte-level BPE (see `tokenizer-file.ts`), ids equal
 * to those of Hugging Face's Python `tokenizers`.
 *
 * - Text is text: `</s>` in a text is those four characters, never the special token 2 (as Python does it with
 *   `encode_special_tokens`). A client can't end or restart its own sequence by accident, and `decode(encode(text)) === text`
 *   holds for every well-formed text (up to NFC for a tokenizer that normalises). A lone surrogate is encoded as U+FFFD.
 * - The JavaScript port `@huggingface/tokenizers` was measured first: 0.9 MB/s on English text, 4.7 s without a pause for a
 *   word of 1 MB, and special tokens that can't be switched off. Here the same text runs at 5 MB/s and the same word in 0.3 s,
 *   because pieces are cut without regular expressions and merged as numbers, and everything can pause. The port is an
 *   oracle of the tests.
 * - Work is sliced: all texts being encoded share `SLICE_MS` of each turn of the event loop.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BytePairs } from './byte-pairs.js';
import { ByteTokenizer, parseByteVocabulary } from './byte-tokenizer.js';
import { utf8Length, utf16Length } from './code-points.js';
import { type Normalized, nfcSteps } from './normalize.js';
import { PieceScanner } from './piece-scanner.js';
import { TimeSlicer } from './time-slicer.js';
import { parseTokenizerFile, type TokenizerTables } from './tokenizer-file.js';
import type { Encoded, Tokenizer } from './types.js';

export const SLICE_MS = 3;

/** Text between two yields, in UTF-16 units; a millisecond at worst, with every piece new to the cache. */
const UNITS_PER_YIELD = 1024;
/** Longer pieces are rare and rarely the same, so they are merged anew each time. */
const CACHED_PIECE_UNITS_MAX = 24;
/** Longer pieces get working memory of their own and may pause; shorter ones are merged in one go. */
const UNPAUSED_PIECE_UNITS_MAX = 1024;
/** Pieces in each of the cache's two generations, 4 MB together. Of 2 MB of English 92 % is found, all but firsts of a kind. */
const CACHE_GENERATION_PIECES = 16_384;

/** A piece in tokens, with the start of each in UTF-16 units from the piece's start. */
interface PieceTokens {
  readonly ids: ArrayLike<number>;
  readonly starts: ArrayLike<number>;
}

const NO_BYTES = new Uint8Array(0);

/** All tokenizers share the main thread, so they share its slices. */
const slicer = new TimeSlicer(SLICE_MS);

/**
 * Reads `tokenizer.json` of a model package. Throws an Error that names the file if it can't be used, or if it does not have
 * the `vocabularySize` ids that the model has rows for (when given).
 */
export async function loadTokenizer(folder: string, vocabularySize?: number): Promise<Tokenizer> {
  const tables = join(folder, 'tokenizer.json');
  // A package whose vocabulary is all bytes needs no file and has none; its manifest has said so.
  const some = join(folder, 'vocabulary.json');
  const isBytes = existsSync(some);
  if (vocabularySize === 256 && !isBytes && !existsSync(tables)) return new ByteTokenizer();
  const path = isBytes ? some : tables;
  try {
    const json = await readFile(path, 'utf8');
    const tokenizer = isBytes
      ? new ByteTokenizer(parseByteVocabulary(json))
      : new ByteLevelTokenizer(parseTokenizerFile(json), slicer);
    if (vocabularySize !== undefined && tokenizer.vocabularySize !== vocabularySize) {
      throw new Error(`has ${tokenizer.vocabularySize} ids where the model has ${vocabularySize}`);
    }
    return tokenizer;
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : error}: restore it from the model package`);
  }
}

export class ByteLevelTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly #pairs: BytePairs;
  readonly #cache = new PieceCache();

  constructor(
    private readonly tables: TokenizerTables,
    private readonly slices: TimeSlicer,
  ) {
    this.vocabularySize = tables.tokenBytes.length;
    this.#pairs = new BytePairs(this.vocabularySize, tables.byteIds, tables.merges);
  }

  encode(text: string): Promise<Encoded> {
    return this.slices.run(this.encodeSteps(text));
  }

  /** The whole of `encode` as one computation that yields several times a millisecond. */
  *encodeSteps(text: string): Generator<void, Encoded> {
    const normalized = this.tables.normalization === 'nfc' ? yield* nfcSteps(text) : null;
    const output = yield* this.#tokenSteps(normalized?.text ?? text);
    return output.finish(text, normalized);
  }

  decode(ids: ArrayLike<number>): string {
    return decodeUtf8(Buffer.concat(Array.from(ids, (id) => this.textBytes(id))));
  }

  textBytes(id: number): Uint8Array {
    const bytes = this.#bytesOf(id);
    return this.tables.specialIds.has(id) ? NO_BYTES : bytes;
  }

  tokenText(id: number): string {
    return decodeUtf8(this.#bytesOf(id));
  }

  *#tokenSteps(text: string): Generator<void, TokenBuffer> {
    const output = new TokenBuffer(text.length);
    const scanner = new PieceScanner(text);
    let sinceYield = 0;
    for (let start = 0; start < text.length; start = scanner.end) {
      for (let complete = scanner.begin(start); !complete; complete = scanner.extend()) yield;
      const units = scanner.end - start;
      if (units <= CACHED_PIECE_UNITS_MAX) {
        output.append(start, this.#shortPiece(text, start, scanner.end));
      } else {
        const bytes = Buffer.from(text.slice(start, scanner.end));
        const ids = units <= UNPAUSED_PIECE_UNITS_MAX ? this.#pairs.merge(bytes) : yield* this.#pairs.mergeSteps(bytes);
        yield* this.#appendSteps(output, text, start, ids);
      }
      sinceYield += units;
      if (sinceYield >= UNITS_PER_YIELD) {
        sinceYield = 0;
        yield;
      }
    }
    return output;
  }

  #shortPiece(text: string, start: number, end: number): PieceTokens {
    const piece = text.slice(start, end);
    const cached = this.#cache.get(piece);
    if (cached !== undefined) return cached;
    const ids = this.#pairs.merge(Buffer.from(piece));
    const starts = new TokenStarts(piece, 0);
    const tokens = {
      ids: Array.from(ids),
      starts: Array.from(ids, (id) => starts.next(this.#bytesOf(id).length)),
    };
    this.#cache.set(piece, tokens);
    return tokens;
  }

  *#appendSteps(output: TokenBuffer, text: string, start: number, ids: Int32Array): Generator<void, void> {
    const starts = new TokenStarts(text, start);
    for (let from = 0; from < ids.length; from += UNITS_PER_YIELD) {
      const part = ids.subarray(from, from + UNITS_PER_YIELD);
      output.append(0, { ids: part, starts: Array.from(part, (id) => starts.next(this.#bytesOf(id).length)) });
      if (part.length === UNITS_PER_YIELD) yield;
    }
  }

  #bytesOf(id: number): Uint8Array {
    const bytes = this.tables.tokenBytes[id];
    if (bytes === undefined)
      throw new RangeError(`token id ${id} is outside the vocabulary (0 ... ${this.vocabularySize - 1})`);
    return bytes;
  }
}

/** Follows the bytes of a text token by token and tells the character, as a UTF-16 offset, in which each token begins. */
class TokenStarts {
  /** Byte at which the next token begins, and the byte at which the character at `#unit` begins. */
  #byte = 0;
  #characterByte = 0;

  constructor(
    private readonly text: string,
    private unit: number,
  ) {}

  next(tokenBytes: number): number {
    for (;;) {
      const codePoint = this.text.codePointAt(this.unit) as number;
      const length = utf8Length(codePoint);
      if (this.#characterByte + length > this.#byte) break;
      this.#characterByte += length;
      this.unit += utf16Length(codePoint);
    }
    this.#byte += tokenBytes;
    return this.unit;
  }
}

/** Ids and offsets of a text, growing. English has a token for every 3.6 units, other text at most three a unit. */
class TokenBuffer {
  #ids: Int32Array;
  #offsets: Int32Array;
  #length = 0;

  constructor(textUnits: number) {
    this.#ids = new Int32Array(Math.ceil(textUnits / 3) + 16);
    this.#offsets = new Int32Array(this.#ids.length);
  }

  /** `tokens.starts` are relative to `base`. */
  append(base: number, tokens: PieceTokens): void {
    const { ids, starts } = tokens;
    if (this.#length + ids.length > this.#ids.length) this.#grow(this.#length + ids.length);
    for (let i = 0; i < ids.length; i++) {
      this.#ids[this.#length] = ids[i] as number;
      this.#offsets[this.#length++] = base + (starts[i] as number);
    }
  }

  finish(text: string, normalized: Normalized | null): Encoded {
    const offsets = new Int32Array(this.#length + 1);
    offsets.set(this.#offsets.subarray(0, this.#length));
    offsets[this.#length] = normalized?.text.length ?? text.length;
    normalized?.toOriginal(offsets);
    return { ids: this.#ids.slice(0, this.#length), offsets, bytes: Buffer.byteLength(text) };
  }

  #grow(needed: number): void {
    const capacity = Math.max(needed, 2 * this.#ids.length);
    const ids = new Int32Array(capacity);
    const offsets = new Int32Array(capacity);
    ids.set(this.#ids);
    offsets.set(this.#offsets);
    this.#ids = ids;
    this.#offsets = offsets;
  }
}

/**
 * Recently used pieces, in two generations: when the young one is full it becomes the old one and the old one is dropped, and a
 * piece found in the old one is young again. It behaves like an LRU cache at the price of a plain map.
 */
class PieceCache {
  #young = new Map<string, PieceTokens>();
  #old = new Map<string, PieceTokens>();

  get(piece: string): PieceTokens | undefined {
    const young = this.#young.get(piece);
    if (young !== undefined) return young;
    const old = this.#old.get(piece);
    if (old !== undefined) this.set(piece, old);
    return old;
  }

  set(piece: string, tokens: PieceTokens): void {
    if (this.#young.size >= CACHE_GENERATION_PIECES) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    // A slice of a string keeps the whole string alive; the key must be a copy, or the cache would hold every text it met.
    this.#young.set(Buffer.from(piece, 'utf16le').toString('utf16le'), tokens);
  }
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array): string {
  return utf8.decode(bytes);
}
