/**
 * Documents to translations, sentence by sentence: the same for a request and for a book. Sentences start in order, up to a window
 * ahead of the first that is not finished, and are delivered in order; nothing but that window is held.
 */
import { monotonicMs } from '../clock.js';
import type { Engine } from '../engine/engine.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';
import { type DocumentSentence, documentSentences } from './document.js';
import type { FaithfulDependencies } from './faithful.js';
import { Lanes } from './lanes.js';
import { translateMarked } from './markup.js';
import { SentenceOfLanes } from './sentence-result.js';
import type { Candidate, Translation } from './translation.js';
import type { TranslatedSentence, TranslatedToken, TranslateSettings } from './types.js';
import { wrapLike } from './wraps.js';

/** Sentences that are started and not delivered; more than the engine runs at a time, so that a slow one holds up nothing. */
const WINDOW_SENTENCES = 384;
/** The main thread is left to others after this long. */
const SLICE_MS = 3;

export interface TranslateDependencies {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly model: ModelDescription;
}

export interface StreamOptions {
  readonly signal: AbortSignal;
  /** On the clock of `monotonicMs`; null: none. */
  readonly deadlineAtMs: number | null;
  /** Whose request it is. */
  readonly tenant?: string;
  readonly streamTokens?: boolean;
  /** Sentences of the first text that are left out: they were translated by a run that was interrupted. */
  readonly skipSentences?: number;
}

export interface DeliveredSentence {
  readonly textIndex: number;
  readonly before: string;
  readonly sentence: TranslatedSentence;
  /** Best first; the first is `sentence.text`. */
  readonly candidates: readonly Candidate[];
  readonly after: string | null;
}

/** Hears of what is final, in the order of the texts and their sentences. */
export interface StreamListener {
  sentence(delivered: DeliveredSentence): void | Promise<void>;
  /** A text without a sentence. */
  untranslated(textIndex: number, text: string): void | Promise<void>;
  token?(textIndex: number, token: TranslatedToken, textSoFar: string): void;
}

export interface StreamTimes {
  readonly queueMs: number;
  readonly computeMs: number;
  readonly tokenizeMs: number;
  readonly firstTokenMs: number;
}

/** What waits for its turn to be delivered. */
interface Started {
  readonly deliver: () => Promise<void>;
  /** Gives the tokens said so far to the listener, and those that follow as they come. */
  readonly speak: () => void;
}

/** @throws ServerError as `Engine.translate` does; what `listener` throws ends the work too */
export async function translateStream(
  deps: TranslateDependencies,
  texts: readonly { readonly text: string }[],
  settings: TranslateSettings,
  options: StreamOptions,
  listener: StreamListener,
): Promise<StreamTimes> {
  const startedAtMs = monotonicMs();
  let tokenizeMs = 0;
  const { model, tokenizer } = deps;
  const lanes = new Lanes(
    deps.engine,
    {
      model: model.id,
      encoderBudget: settings.encoderBudget,
      decoderBudget: settings.decoderBudget,
      lengthPenalty: settings.lengthPenalty,
      streamTokens: options.streamTokens === true && settings.beam === 1,
      deadlineAtMs: options.deadlineAtMs,
      tenant: options.tenant ?? '',
    },
    options.signal,
  );
  const onTokenized = (ms: number): void => {
    tokenizeMs += ms;
  };
  const faithful: FaithfulDependencies = { lanes, tokenizer, model, settings, onTokenized, now: monotonicMs };
  const window = new Window();
  try {
    for (const [textIndex, { text }] of texts.entries()) {
      const sentences = documentSentences(text, settings.format);
      let skip = textIndex === 0 ? (options.skipSentences ?? 0) : 0;
      let sliceEndsAtMs = monotonicMs() + SLICE_MS;
      for (let step = sentences.next(); ; step = sentences.next()) {
        if (step.done === true) {
          const whole = step.value;
          if (whole !== null)
            await window.add({ deliver: async () => listener.untranslated(textIndex, whole), speak: () => {} });
          break;
        }
        if (step.value !== null && skip-- <= 0) {
          await window.add(start(faithful, textIndex, step.value, settings, listener));
        }
        if (monotonicMs() < sliceEndsAtMs) continue;
        await new Promise(setImmediate);
        if (options.signal.aborted) throw new ServerError('CLIENT_CLOSED', 'the client closed the connection');
        window.throwIfFailed();
        sliceEndsAtMs = monotonicMs() + SLICE_MS;
      }
    }
    await window.drained();
    await lanes.settled();
  } finally {
    lanes.close();
  }
  const { queueMs, computeMs } = lanes;
  return { queueMs, computeMs, tokenizeMs, firstTokenMs: lanes.firstTokenMs(startedAtMs) };
}

function start(
  deps: FaithfulDependencies,
  textIndex: number,
  { before, sentence: source, after }: DocumentSentence,
  settings: TranslateSettings,
  listener: StreamListener,
): Started {
  const said: [TranslatedToken, string][] = [];
  let speaking = false;
  const onToken =
    listener.token === undefined
      ? null
      : (id: number, logprob: number, depth: number, textSoFar: string): void => {
          const token = { id, text: deps.tokenizer.tokenText(id), logprob, depth };
          if (speaking) listener.token?.(textIndex, token, textSoFar);
          else said.push([token, textSoFar]);
        };
  const translating = translateMarked(deps, source, onToken);
  translating.catch(() => {}); // reported when its turn comes
  return {
    deliver: async () => {
      const translation = settings.format === 'html' ? await translating : wrapped(source.text, await translating);
      const sentence = new SentenceOfLanes(source, translation, deps.tokenizer);
      await listener.sentence({ textIndex, before, sentence, candidates: translation.candidates, after });
    },
    speak: () => {
      speaking = true;
      for (const [token, textSoFar] of said.splice(0)) listener.token?.(textIndex, token, textSoFar);
    },
  };
}

function wrapped(source: string, translation: Translation): Translation {
  const candidates = translation.candidates.map(({ text, score }) => ({ text: wrapLike(source, text), score }));
  return { ...translation, candidates };
}

/** Delivers what was started in its order, one after the other, while more is started. */
class Window {
  private readonly queue: Started[] = [];
  private delivering: Promise<void> | null = null;
  private failure: { readonly error: unknown } | null = null;
  private readonly roomWaiters: (() => void)[] = [];

  /** Resolves when there is room for the next. */
  async add(started: Started): Promise<void> {
    this.throwIfFailed();
    this.queue.push(started);
    this.delivering ??= this.deliverAll();
    while (this.queue.length >= WINDOW_SENTENCES && this.failure === null) {
      await new Promise<void>((resolve) => this.roomWaiters.push(resolve));
    }
    this.throwIfFailed();
  }

  async drained(): Promise<void> {
    await this.delivering;
    this.throwIfFailed();
  }

  throwIfFailed(): void {
    if (this.failure !== null) throw this.failure.error;
  }

  private async deliverAll(): Promise<void> {
    try {
      for (let head = this.queue[0]; head !== undefined; head = this.queue[0]) {
        head.speak();
        await head.deliver();
        this.queue.shift();
        for (const resolve of this.roomWaiters.splice(0)) resolve();
      }
    } catch (error) {
      this.failure = { error };
      for (const resolve of this.roomWaiters.splice(0)) resolve();
    } finally {
      this.delivering = null;
    }
  }
}
