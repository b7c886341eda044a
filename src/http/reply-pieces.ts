/**
 * Large replies are written in pieces with a turn of the event loop between them: one large JSON.stringify would stop every
 * other request meanwhile.
 */
import { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';

/** Tokens written between two turns of the event loop: about a millisecond. */
export const TOKENS_PER_PIECE = 512;
/** Replies with more tokens are streamed; the others are one text with a Content-Length. */
const UNSTREAMED_TOKENS_MAX = 1024;

export function joinOrStream(pieces: Iterable<string>, tokens: number): string | Readable {
  if (tokens <= UNSTREAMED_TOKENS_MAX) return [...pieces].join('');
  return Readable.from(paced(pieces), { objectMode: false });
}

/** A turn of the event loop after each piece. */
export async function* paced(pieces: Iterable<string>): AsyncGenerator<string> {
  for (const piece of pieces) {
    yield piece;
    await setImmediate();
  }
}
