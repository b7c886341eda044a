import type { FastifyReply } from 'fastify';

/** Milliseconds to the microsecond: what is below is noise. */
export function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

export interface Split {
  readonly queue_ms: number;
  readonly tokenize_ms: number;
  readonly compute_ms: number;
  readonly total_ms: number;
}

/** The figures of the body where browsers (Server-Timing) and clients of text-embeddings-inference (whole milliseconds) look. */
export function sendTiming(reply: FastifyReply, { queue_ms, tokenize_ms, compute_ms, total_ms }: Split): void {
  reply.request.exit.phases = { tokenizeMs: tokenize_ms, queueMs: queue_ms, computeMs: compute_ms };
  reply.headers({
    'server-timing': `queue;dur=${queue_ms}, tokenize;dur=${tokenize_ms}, compute;dur=${compute_ms}, total;dur=${total_ms}`,
    'x-queue-time': String(Math.round(queue_ms)),
    'x-tokenization-time': String(Math.round(tokenize_ms)),
    'x-inference-time': String(Math.round(compute_ms)),
  });
}
