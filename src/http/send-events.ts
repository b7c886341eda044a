import type { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ServerError } from '../errors.js';
import type { AppDeps } from './deps.js';
import { toServerError } from './errors.js';

export interface Events {
  readonly begun: Promise<void>;
  readonly stream: Readable;
  /** The status is sent already: the error is the last event. */
  fail(error: ServerError): void;
}

/**
 * Answers with events while `work` makes them. What fails before the first event is answered with its status; what fails later is the
 * last event.
 */
export async function sendEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  { config }: AppDeps,
  events: Events,
  work: Promise<void>,
): Promise<FastifyReply> {
  const { exit } = request;
  await Promise.race([events.begun, work]);
  work.catch((thrown: unknown) => {
    const error = toServerError(thrown, request, config.bodyBytesMax);
    exit.outcome = error.code;
    if (error.code === 'INTERNAL') request.log.error({ err: thrown }, 'request failed');
    events.fail(error);
  });
  return reply
    .headers({ 'cache-control': 'no-cache', 'x-accel-buffering': 'no' })
    .type('text/event-stream; charset=utf-8')
    .send(events.stream);
}
