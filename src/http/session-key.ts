/** The name of a session: chosen by a client, and its own. */
import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { ServerError } from '../errors.js';
import { shorten } from './validation.js';

const KEY = /^[\w.:-]{1,128}$/;

/**
 * What the engine calls the session. Clients that show different keys have names of their own: none can continue, end or find
 * another's session by guessing its name.
 * @throws ServerError INVALID_REQUEST
 */
export function sessionKey(key: string, { authorization = '' }: IncomingHttpHeaders): string {
  if (!KEY.test(key)) {
    const message = `session must be 1 to 128 letters, digits and . _ : -, not '${shorten(key)}'`;
    throw new ServerError('INVALID_REQUEST', message, 'session');
  }
  return `${createHash('sha256').update(authorization).digest('base64url')}/${key}`;
}
