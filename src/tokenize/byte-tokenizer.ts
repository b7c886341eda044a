/** Text as the bytes of its UTF-8: the tokenizer of models whose vocabulary is bytes, all 256 or those of their training text. */
import { setImmediate as turn } from 'node:timers/promises';
import { ServerError } from '../errors.js';
import type { Encoded, Tokenizer } from './types.js';

/** UTF-16 units between two turns of the event loop; well under a millisecond. */
const UNITS_PER_TURN = 65_536;

const ALL_BYTES = Uint8Array.from({ length: 256 }, (_, byte) => byte);

export class ByteTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  /** [256] -1: the vocabulary has no such byte. */
  private readonly idOf = new Int16Array(256).fill(-1);
  private readonly complete: boolean;

  /** @param bytes that the ids stand for, in their order */
  constructor(private readonly bytes: Uint8Array = ALL_BYTES) {
    this.vocabularySize = bytes.length;
    for (const [id, byte] of bytes.entries()) this.idOf[byte] = id;
    this.complete = bytes.length === 256;
  }

  /** Throws ServerError INVALID_REQUEST when the text has a byte that the vocabulary has not. */
  async encode(text: string): Promise<Encoded> {
    const bytes = Buffer.from(text, 'utf8');
    const offsets = new Int32Array(bytes.length + 1);
    let at = 0;
    let nextTurn = UNITS_PER_TURN;
    for (let unit = 0; unit < text.length; ) {
      const point = text.codePointAt(unit) as number;
      const length = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
      // Every byte of a character begins where the character does.
      offsets.fill(unit, at, at + length);
      at += length;
      unit += point < 0x10000 ? 1 : 2;
      if (unit < nextTurn) continue;
      nextTurn += UNITS_PER_TURN;
      await turn();
    }
    offsets[bytes.length] = text.length;
    return { ids: this.complete ? Int32Array.from(bytes) : this.idsOf(bytes, offsets), offsets, bytes: bytes.length };
  }

  private idsOf(bytes: Buffer, offsets: Int32Array): Int32Array {
    return Int32Array.from(bytes, (byte, i) => {
      const id = this.idOf[byte] as number;
      if (id >= 0) return id;
      const shown = `0x${byte.toString(16).padStart(2, '0')}`;
      const message = `the text has a byte outside the model's vocabulary (${shown} at offset ${offsets[i]}): leave it out`;
      throw new ServerError('INVALID_REQUEST', message);
    });
  }

  decode(ids: ArrayLike<number>): string {
    return Buffer.from(Uint8Array.from(ids, (id) => this.bytes[id] as number)).toString('utf8');
  }

  textBytes(id: number): Uint8Array {
    return Uint8Array.of(this.bytes[id] as number);
  }

  tokenText(id: number): string {
    const byte = this.bytes[id] as number;
    return byte < 0x80 ? String.fromCharCode(byte) : '\ufffd';
  }
}

/** Reads `vocabulary.json`: a list of the bytes that the ids stand for. Throws an Error that says what is wrong. */
export function parseByteVocabulary(json: string): Uint8Array {
  const bytes: unknown = JSON.parse(json);
  const valid = Array.isArray(bytes) && bytes.every((byte) => Number.isInteger(byte) && byte >= 0 && byte <= 255);
  if (!valid || new Set(bytes).size !== bytes.length) throw new Error('is no list of different bytes (0 to 255)');
  return Uint8Array.from(bytes as number[]);
}
