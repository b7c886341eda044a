import type { FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import { unsupportedMediaType } from './errors.js';
import { Turnstile } from './turnstile.js';

/** Bytes of bodies in a turn of the event loop: some four milliseconds for token ids, which cost most; and what a short request costs. */
const BYTES_OF_TURN = 32_768;
const BYTES_OF_REQUEST = 2048;
const bodies = new Turnstile(BYTES_OF_TURN, BYTES_OF_REQUEST);

/** Refuses bytes that are not UTF-8; the usual decoder would silently score U+FFFD in their place. */
const utf8 = new TextDecoder('utf-8', { fatal: true });

/** @throws ServerError UNSUPPORTED_MEDIA_TYPE or MALFORMED_JSON */
export async function parseJsonBody(request: FastifyRequest, body: Buffer): Promise<unknown> {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = request.headers;
  const charset = /;\s*charset\s*=\s*"?([^";\s]+)/i.exec(type)?.[1] ?? 'utf-8';
  if (!/^utf-?8$/i.test(charset)) throw unsupportedMediaType('this charset');
  if (encoding.toLowerCase() !== 'identity') throw unsupportedMediaType('a Content-Encoding');
  if (body.length === 0) {
    throw new ServerError('MALFORMED_JSON', 'the body is empty: send a JSON object with the field input');
  }
  await bodies.enter(body.length);
  return parseJson(parseUtf8(body));
}

/** @throws ServerError MALFORMED_JSON */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ServerError('MALFORMED_JSON', `the body is not valid JSON${placeOf(error)}: correct it`);
  }
}

/** @throws ServerError MALFORMED_JSON */
export function parseUtf8(body: Buffer): string {
  try {
    return utf8.decode(body);
  } catch {
    throw new ServerError('MALFORMED_JSON', 'the body is not valid UTF-8: encode it as UTF-8');
  }
}

/** V8's message names the place but also quotes the body; only the place is passed on. */
function placeOf(error: unknown): string {
  const message = error instanceof Error ? error.message : '';
  const position = /position (\d+)/.exec(message)?.[1];
  if (position !== undefined) return ` (at character ${position})`;
  return message.includes('end of JSON') ? ' (it ends too early)' : '';
}
