import type { FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import { unsupportedMediaType } from './errors.js';

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
  let text: string;
  try {
    text = utf8.decode(body);
  } catch {
    throw new ServerError('MALFORMED_JSON', 'the body is not valid UTF-8: encode it as UTF-8');
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    // V8 names the place ("at position 12") but also quotes the text; only the place is passed on.
    const place = /position (\d+)/.exec(error instanceof Error ? error.message : '')?.[1];
    throw new ServerError(
      'MALFORMED_JSON',
      `the body is not valid JSON${place ? ` (at character ${place})` : ''}: correct it`,
    );
  }
}
