/**
 * A translation as server-sent events. The engine does not wait for a reader, so what a slow one has not read yet is queued:
 *
 *   progress ──> queue of references ──read()──> text of one event ──> socket
 *
 * A queued sentence is a reference to a result that the request holds to its end anyway, and becomes text only when the reader
 * takes it. Tokens are what could pile up; a reader that is `TOKENS_BEHIND_MAX` events behind gets no more of them until it
 * has caught up. It loses nothing: each says the sentence's text so far, and the sentence itself follows.
 */
import { Readable } from 'node:stream';
import { errorBody, type ServerError } from '../errors.js';
import type { TranslatedSentence, TranslatedToken, TranslateProgress } from '../translate/types.js';
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

export class TranslateEvents implements TranslateProgress {
  readonly stream: Readable;
  /** Resolves when there is something to send: until then the request can still be answered with a status of its own. */
  readonly begun: Promise<void>;
  #begin: () => void = () => {};
  readonly #queue: Event[] = [];
  /** The stream has room: until `push` says no, and again when it calls `read`. */
  #wanted = true;
  #ended = false;

  /** @param returnTokens whether sentences carry their tokens */
  constructor(private readonly returnTokens: boolean) {
    this.begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    this.stream = new Readable({
      read: () => {
        this.#wanted = true;
        this.#flush();
      },
    });
  }

  /** Events that wait for the reader. */
  get waiting(): number {
    return this.#queue.length;
  }

  piece(index: number, piece: string, sentence: TranslatedSentence | null): void {
    if (piece !== '' || sentence !== null) this.#add({ kind: 'sentence', index, piece, sentence });
  }

  token(index: number, { id, text, logprob, depth }: TranslatedToken, textSoFar: string): void {
    if (this.#queue.length >= TOKENS_BEHIND_MAX) return;
    this.#add({ kind: 'token', index, token: { id, text, logprob, depth }, textSoFar });
  }

  finish(reply: TranslateReply): void {
    this.#add({ kind: 'result', reply }, true);
  }

  /** The status is sent already: the error is the last event, and `[DONE]` stays out. */
  fail(error: ServerError): void {
    this.#add({ kind: 'error', error }, true);
  }

  #add(event: Event, last = false): void {
    if (this.stream.destroyed || this.#ended) return;
    this.#queue.push(event);
    this.#ended = last;
    this.#begin();
    this.#flush();
  }

  #flush(): void {
    while (this.#wanted) {
      const event = this.#queue.shift();
      if (event === undefined) break;
      this.#wanted = this.stream.push(this.#write(event));
    }
    if (this.#ended && this.#queue.length === 0) this.stream.push(null);
  }

  #write(event: Event): string {
    switch (event.kind) {
      case 'token': {
        const { index, token, textSoFar } = event;
        return line({ type: 'token', index, token, text_so_far: textSoFar });
      }
      case 'sentence': {
        const { index, piece: text, sentence } = event;
        if (sentence === null) return line({ type: 'sentence', index, text });
        const tokens = this.returnTokens ? tokenLists(sentence) : {};
        return line({ type: 'sentence', index, text, finish_reason: sentence.finishReason, ...tokens });
      }
      case 'result': {
        const { model, results, usage, timing } = event.reply;
        const summaries = results.map(({ text: _, ...rest }) => rest);
        return `${line({ type: 'result', model, results: summaries, usage, timing })}data: [DONE]\n\n`;
      }
      case 'error':
        return line({ type: 'error', ...errorBody(event.error) });
      default:
        return event satisfies never;
    }
  }
}

/** JSON has no line breaks of its own, so one line is one event. */
function line(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}
