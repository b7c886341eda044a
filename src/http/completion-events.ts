/**
 * A completion as server-sent events, in the form of OpenAI's. The engine does not wait for a reader: what one has not read yet of a choice
 * is put together and becomes one event, so a slow reader gets fewer and larger events, and never costs more than the text itself.
 */
import { Readable } from 'node:stream';
import { errorBody, type ServerError } from '../errors.js';
import type { Piece, TokenLogprob } from './completion-choice.js';
import { logprobsOf } from './completion-reply.js';

type FinishReason = 'stop' | 'length';

interface Pending {
  text: string;
  tokens: TokenLogprob[];
  finishReason: FinishReason | null;
}

export class CompletionEvents {
  readonly stream: Readable;
  /** Resolves when there is something to send: until then the request can still be answered with a status of its own. */
  readonly begun: Promise<void>;
  #begin: () => void = () => {};
  /** By choice, the one that waits longest first. */
  readonly #pending = new Map<number, Pending>();
  readonly #last: string[] = [];
  #wanted = true;
  #ended = false;

  /**
   * @param head of every event: id, object, created, model
   * @param withLogprobs whether pieces carry tokens
   * @param withUsage whether a last event will have the usage; the others then say that it is null
   * @param withDepths whether the tokens have depths
   */
  constructor(
    private readonly head: object,
    private readonly withLogprobs: boolean,
    private readonly withUsage: boolean,
    private readonly withDepths = true,
  ) {
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

  /** Choices with something that the reader has not had. */
  get waiting(): number {
    return this.#pending.size;
  }

  add(index: number, { text, tokens }: Piece, finishReason: FinishReason | null = null): void {
    if (this.#closed || (text === '' && tokens.length === 0 && finishReason === null)) return;
    const pending = this.#pending.get(index) ?? { text: '', tokens: [], finishReason: null };
    pending.text += text;
    pending.tokens.push(...tokens);
    pending.finishReason = finishReason;
    this.#pending.set(index, pending);
    this.#begin();
    this.#flush();
  }

  /** @param totals usage and ponder, sent when they were asked for */
  finish(totals: object): void {
    const { head, withUsage } = this;
    this.#close(withUsage ? [line({ ...head, choices: [], ...totals }), 'data: [DONE]\n\n'] : ['data: [DONE]\n\n']);
  }

  /** The status is sent already: the error is the last event, and `[DONE]` stays out. */
  fail(error: ServerError): void {
    this.#close([line(errorBody(error))]);
  }

  get #closed(): boolean {
    return this.#ended || this.stream.destroyed;
  }

  #close(last: readonly string[]): void {
    if (this.#closed) return;
    this.#ended = true;
    this.#last.push(...last);
    this.#begin();
    this.#flush();
  }

  #flush(): void {
    while (this.#wanted) {
      const next = this.#next();
      if (next === null) {
        if (this.#ended) this.#wanted = this.stream.push(null);
        break;
      }
      this.#wanted = this.stream.push(next);
    }
  }

  #next(): string | null {
    for (const [index, { text, tokens, finishReason }] of this.#pending) {
      this.#pending.delete(index);
      const logprobs = this.withLogprobs ? logprobsOf(tokens, this.withDepths) : null;
      const choices = [{ index, text, logprobs, finish_reason: finishReason }];
      return line({ ...this.head, choices, ...(this.withUsage ? { usage: null } : {}) });
    }
    return this.#last.shift() ?? null;
  }
}

/** JSON has no line breaks of its own, so one line is one event. */
function line(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}
