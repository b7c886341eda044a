/** One choice of a completion as it grows: text that is certain, and the log-probabilities of the tokens that begin in it. */
import type { TokenScores } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { Tokenizer } from '../tokenize/types.js';
import { countCodePoints, TextStream } from './text-stream.js';

/** JSON has no minus infinity; vLLM writes this, and clients know it. */
const LEAST_LOGPROB = -9999;

export interface TokenLogprob {
  readonly token: string;
  /** Nats; null for the first token of all, which nothing predicts. */
  readonly logprob: number | null;
  /** The best candidates and the token itself, by text: of those that read alike the best. */
  readonly top: Readonly<Record<string, number>> | null;
  /** Where the token begins in the choice's text, in code points as Python counts. */
  readonly offset: number;
  /** Steps of the position that predicts it, null where nothing does; undefined for a model without adaptive depth. */
  readonly depth?: number | null;
}

export interface Piece {
  readonly text: string;
  /** Empty unless log-probabilities are asked for. */
  readonly tokens: readonly TokenLogprob[];
}

export interface ChoiceSettings {
  /** Candidates beside each token; null: no log-probabilities. */
  readonly logprobs: number | null;
  /** The model has adaptive depth, so each token has one to tell. */
  readonly withDepths: boolean;
  readonly stops: readonly string[];
  /** They end a sequence and are not part of its text. */
  readonly stopIds: readonly number[];
}

export class ChoiceWriter {
  readonly #prompt = new TextStream([]);
  readonly #said: TextStream;
  /** Code points given out. */
  #given = 0;
  /** Tokens that begin in text which is held back. */
  #waiting: TokenLogprob[] = [];

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly settings: ChoiceSettings,
  ) {
    this.#said = new TextStream(settings.stops);
  }

  /** A token of the prompt, for a choice that begins with it; `scores` null: nothing predicts it, or nobody asked. */
  promptToken(id: number, scores: TokenScores | null, i: number): Piece {
    this.#enter(id, scores, i);
    return this.#give(this.#prompt.push(this.tokenizer.textBytes(id)).text);
  }

  /** What follows is new. */
  endPrompt(): Piece {
    return this.#give(this.#prompt.end().text);
  }

  token(id: number, scores: TokenScores, i: number): Piece & { readonly stopped: boolean } {
    this.#enter(id, scores, i);
    const { text, stopped } = this.#said.push(this.#bytesOf(id));
    return { ...this.#give(text), stopped };
  }

  /** The rest. Of a text that a stop string has cut, the tokens beyond the cut are dropped. */
  end(): Piece {
    const { text } = this.#said.end();
    const { tokens } = this.#give(text);
    const rest = this.#said.stopped ? [] : this.#waiting;
    this.#waiting = [];
    return { text, tokens: [...tokens, ...rest] };
  }

  #bytesOf(id: number): Uint8Array {
    return this.settings.stopIds.includes(id) ? new Uint8Array(0) : this.tokenizer.textBytes(id);
  }

  #enter(id: number, scores: TokenScores | null, i: number): void {
    const { logprobs, withDepths } = this.settings;
    if (logprobs === null) return;
    const token = this.tokenizer.tokenText(id);
    const top = scores === null ? null : topOf(token, scores, i, logprobs, this.tokenizer);
    this.#waiting.push({
      token,
      logprob: scores === null ? null : written(scores.logprobs[i]),
      top,
      offset: this.#prompt.codePoints + this.#said.codePoints,
      ...(withDepths ? { depth: scores?.depths[i] ?? null } : {}),
    });
  }

  #give(text: string): Piece {
    const { logprobs } = this.settings;
    if (logprobs === null) return { text, tokens: [] };
    this.#given += countCodePoints(text);
    const count = this.#waiting.findIndex(({ offset }) => offset >= this.#given);
    return { text, tokens: this.#waiting.splice(0, count < 0 ? this.#waiting.length : count) };
  }
}

/** Top candidates of token `i` by text, and the token itself: its float is the same in both places. */
function topOf(
  token: string,
  { logprobs, topIds, topLogprobs }: TokenScores,
  i: number,
  count: number,
  tokenizer: Tokenizer,
): Readonly<Record<string, number>> {
  // A token may read "__proto__": the object must not have a prototype to be set.
  const top: Record<string, number> = Object.create(null);
  const width = logprobs.length === 0 ? 0 : topIds.length / logprobs.length;
  for (let k = 0; k < Math.min(count, width); k++) {
    keepLarger(top, tokenizer.tokenText(topIds[i * width + k] as number), topLogprobs[i * width + k]);
  }
  keepLarger(top, token, logprobs[i]);
  return top;
}

function keepLarger(top: Record<string, number>, text: string, logprob: number | undefined): void {
  top[text] = Math.max(top[text] ?? Number.NEGATIVE_INFINITY, written(logprob));
}

/** @throws ServerError INTERNAL for what is no number: JSON could not say it */
function written(logprob: number | undefined): number {
  if (logprob === undefined || Number.isNaN(logprob)) {
    throw new ServerError('INTERNAL', 'the model returned a value that is not a number');
  }
  return Math.max(logprob, LEAST_LOGPROB);
}
