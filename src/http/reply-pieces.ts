/**
 * Large replies are written in pieces with a turn of the event loop between them: one large JSON.stringify would stop every
 * other request meanwhile.
 */
import { Readable } from 'node:stream';
import { Turnstile } from './turnstile.js';

/** Tokens of a piece: about a millisecond. */
export const TOKENS_PER_PIECE = 512;
/** Replies with more tokens are streamed; the others are one text with a Content-Length. */
const UNSTREAMED_TOKENS_MAX = 1024;
/** Tokens that all replies together write in a turn of the event loop, and what the shortest costs. */
const TOKENS_OF_TURN = 2048;
const TOKENS_OF_REPLY = 64;

const replies = new Turnstile(TOKENS_OF_TURN, TOKENS_OF_REPLY);

export async function joinOrStream(pieces: Iterable<string>, tokens: number): Promise<string | Readable> {
  if (tokens > UNSTREAMED_TOKENS_MAX) return Readable.from(paced(pieces), { objectMode: false });
  await replies.enter(tokens);
  return [...pieces].join('');
}

/** A turn of the event loop for each piece, or for a few of different replies. */
export async function* paced(pieces: Iterable<string>): AsyncGenerator<string> {
  for (const piece of pieces) {
    yield piece;
    await replies.enter(TOKENS_PER_PIECE);
  }
}
