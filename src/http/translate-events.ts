/**
 * A translation as server-sent events. A queued sentence is a reference to a result that the request holds to its end anyway. Tokens
 * are what could pile up; a reader that is `TOKENS_BEHIND_MAX` events behind gets no more of them until it has caught up. It
 * loses nothing: each says the sentence's text so far, and the sentence itself follows.
 */
import { errorBody, type ServerError } from '../errors.js';
import type { TranslatedSentence, TranslatedToken, TranslateProgress } from '../translate/types.js';
import { DONE_LINE, EventStream, eventLine } from './event-stream.js';
import { tokenLists } from './translate-reply.js';
import type { TranslateReply } from './translate-schemas.js';

/** Events not yet read, past which tokens are left out. */
const TOKENS_BEHIND_MAX = 64;

type Event =
  | { readonly kind: 'token'; readonly index: number; readonly token: TranslatedToken; readonly textSoFar: string }
  | {
      readonly kind: 'sentence';
      readonly index: number;
      readonly piece: string;
      readonly sentence: TranslatedSentence | null;
    }
  | { readonly kind: 'result'; readonly reply: TranslateReply }
  | { readonly kind: 'error'; readonly error: ServerError };

export class TranslateEvents extends EventStream<Event> implements TranslateProgress {
  /** @param returnTokens whether sentences carry their tokens */
  constructor(returnTokens: boolean) {
    super((event) => eventText(event, returnTokens));
  }

  piece(index: number, piece: string, sentence: TranslatedSentence | null): void {
    if (piece !== '' || sentence !== null) this.add({ kind: 'sentence', index, piece, sentence });
  }

  token(index: number, { id, text, logprob, depth }: TranslatedToken, textSoFar: string): void {
    if (this.waiting >= TOKENS_BEHIND_MAX) return;
    this.add({ kind: 'token', index, token: { id, text, logprob, depth }, textSoFar });
  }

  finish(reply: TranslateReply): void {
    this.add({ kind: 'result', reply }, true);
  }

  /** The status is sent already: the error is the last event, and `[DONE]` stays out. */
  fail(error: ServerError): void {
    this.add({ kind: 'error', error }, true);
  }
}

function eventText(event: Event, returnTokens: boolean): string {
  switch (event.kind) {
    case 'token': {
      const { index, token, textSoFar } = event;
      return eventLine({ type: 'token', index, token, text_so_far: textSoFar });
    }
    case 'sentence': {
      const { index, piece: text, sentence } = event;
      if (sentence === null) return eventLine({ type: 'sentence', index, text });
      const tokens = returnTokens ? tokenLists(sentence) : {};
      return eventLine({ type: 'sentence', index, text, finish_reason: sentence.finishReason, ...tokens });
    }
    case 'result': {
      const { model, results, usage, timing, quality } = event.reply;
      const said = quality === undefined ? {} : { quality };
      const summaries = results.map(({ text: _, ...rest }) => rest);
      return `${eventLine({ type: 'result', model, results: summaries, usage, timing, ...said })}${DONE_LINE}`;
    }
    case 'error':
      return eventLine({ type: 'error', ...errorBody(event.error) });
    default:
      return event satisfies never;
  }
}
