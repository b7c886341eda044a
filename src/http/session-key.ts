/** The name of a session: chosen by a client, and its own. */
import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import { shorten } from './validation.js';

const KEY = /^[\w.:-]{1,128}$/;

/** Whose session it is. */
export type Caller = Pick<FastifyRequest, 'headers'> & { readonly key: { readonly name: string } | null };

/**
 * What the engine calls the session. Clients that show different keys have names of their own, whether the server asks for keys or not:
 * none can continue, end or find another's session by guessing its name.
 * @throws ServerError INVALID_REQUEST
 */
export function sessionKey(key: string, { headers, key: apiKey }: Caller): string {
  if (!KEY.test(key)) {
    const message = `session must be 1 to 128 letters, digits and . _ : -, not '${shorten(key)}'`;
    throw new ServerError('INVALID_REQUEST', message, 'session');
  }
  const owner = apiKey === null ? `header ${headers.authorization ?? ''}` : `key ${apiKey.name}`;
  return `${createHash('sha256').update(owner).digest('base64url')}/${key}`;
}
