/** Text as the bytes of its UTF-8: the tokenizer of models whose vocabulary is 256 bytes. */
import { setImmediate as turn } from 'node:timers/promises';
import type { Encoded, Tokenizer } from './types.js';

/** UTF-16 units between two turns of the event loop; well under a millisecond. */
const UNITS_PER_TURN = 65_536;

export class ByteTokenizer implements Tokenizer {
  readonly vocabularySize = 256;

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
    return { ids: Int32Array.from(bytes), offsets, bytes: bytes.length };
  }

  decode(ids: ArrayLike<number>): string {
    return Buffer.from(Uint8Array.from(ids)).toString('utf8');
  }

  textBytes(id: number): Uint8Array {
    return Uint8Array.of(id);
  }

  tokenText(id: number): string {
    return id < 0x80 ? String.fromCharCode(id) : '\ufffd';
  }
}
