/**
 * Blocks of long texts as server-sent events. The engine computes a few blocks ahead of the reader and then waits for it, so a stream
 * of any length holds a few blocks.
 */
import type { SpanBlockResult } from '../engine/protocol.js';
import { errorBody, type ServerError } from '../errors.js';
import type { Encoded, Tokenizer } from '../tokenize/types.js';
import { DONE_LINE, EventStream, eventLine } from './event-stream.js';
import { type TokenFields, tokensJson } from './span-reply.js';
import type { SpanProgress } from './span-run.js';
import type { SpanScoreReply } from './span-schemas.js';
import { tokenJson } from './token-json.js';

type Event =
  | {
      readonly kind: 'block';
      readonly index: number;
      readonly start: number;
      readonly encoded: Encoded;
      readonly result: SpanBlockResult;
    }
  | { readonly kind: 'result'; readonly reply: SpanScoreReply }
  | { readonly kind: 'error'; readonly error: ServerError };

export class SpanEvents extends EventStream<Event> {
  /** @param returnTokens whether blocks carry their tokens */
  constructor(tokenizer: Tokenizer, topLogprobs: number, returnTokens: boolean) {
    const fields = { topLogprobs, textOf: tokenJson(tokenizer) };
    super((event) => eventText(event, returnTokens ? fields : null));
  }

  /** Resolves when the reader has taken the block. */
  readonly block: SpanProgress = (index, start, encoded, result) =>
    this.add({ kind: 'block', index, start, encoded, result });

  finish(reply: SpanScoreReply): void {
    this.add({ kind: 'result', reply }, true);
  }

  /** The status is sent already: the error is the last event, and `[DONE]` stays out. */
  fail(error: ServerError): void {
    this.add({ kind: 'error', error }, true);
  }
}

function eventText(event: Event, fields: TokenFields | null): string {
  switch (event.kind) {
    case 'block': {
      const { index, start, encoded, result } = event;
      const count = result.logprobs.length;
      const logprob = result.logprobs.reduce((sum, value) => sum + value, 0);
      const head = eventLine({ type: 'block', index, start, count, logprob });
      if (fields === null) return head;
      const tokens = tokensJson(encoded, result, { from: 0, to: count, at: start }, fields);
      return `${head.trimEnd().slice(0, -1)},"tokens":[${tokens}]}\n\n`;
    }
    case 'result':
      return `${eventLine({ type: 'result', ...event.reply })}${DONE_LINE}`;
    case 'error':
      return eventLine({ type: 'error', ...errorBody(event.error) });
    default:
      return event satisfies never;
  }
}
