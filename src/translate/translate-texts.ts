/** Texts to translations: the one entry that HTTP and the LibreTranslate contract call. The command line streams (`translate-stream.ts`). */
import { ServerError } from '../errors.js';
import {
  type DeliveredSentence,
  type StreamListener,
  type StreamTimes,
  type TranslateDependencies,
  translateStream,
} from './translate-stream.js';
import { worstReason } from './translation.js';
import type { TranslatedSentence, TranslatedText, TranslateProgress, TranslateSettings } from './types.js';

export type { TranslateDependencies } from './translate-stream.js';

export interface TranslateInput {
  readonly text: string;
  /** How errors call it, e.g. `input[3]`. */
  readonly param: string;
}

export interface TranslateOptions {
  readonly signal: AbortSignal;
  /** On the clock of `monotonicMs`; null: none. */
  readonly deadlineAtMs: number | null;
  /** Whose request it is. */
  readonly tenant?: string;
  readonly progress?: TranslateProgress;
  /** Send tokens to `progress`; greedy only. */
  readonly streamTokens?: boolean;
}

/**
 * Times in milliseconds: waiting until the first sentence was admitted; from there to the last result; work on tokens; and from the
 * call until the first token of any sentence was decided, 0 when there was nothing to translate.
 */
export interface TranslateWork extends StreamTimes {
  readonly texts: TranslatedText[];
}

/**
 * Any text is translated or comes back as it is; none is refused.
 * @throws ServerError as `Engine.translate` does. QUEUE_FULL is thrown before any progress was told, or not at all.
 */
export async function translateTexts(
  deps: TranslateDependencies,
  texts: readonly TranslateInput[],
  settings: TranslateSettings,
  options: TranslateOptions,
): Promise<TranslateWork> {
  if (settings.alternatives >= settings.beam) {
    throw new ServerError(
      'INVALID_REQUEST',
      `alternatives must be below beam (${settings.beam}), not ${settings.alternatives}: raise beam`,
      'alternatives',
    );
  }
  const collected = texts.map(() => new TextCollector(settings.alternatives + 1));
  const { progress } = options;
  const collectorOf = (index: number): TextCollector => collected[index] as TextCollector;
  const listener: StreamListener = {
    sentence: (delivered) => {
      collectorOf(delivered.textIndex).add(delivered);
      const { before, sentence, after } = delivered;
      progress?.piece(delivered.textIndex, before + sentence.text + (after ?? ''), sentence);
    },
    untranslated: (index, text) => {
      collectorOf(index).addUntranslated(text);
      progress?.piece(index, text, null);
    },
    ...(progress !== undefined && options.streamTokens === true ? { token: progress.token.bind(progress) } : {}),
  };
  const times = await translateStream(deps, texts, settings, options, listener);
  return { texts: collected.map((text) => text.finish()), ...times };
}

/** The best translations of one text, as its sentences come. */
class TextCollector {
  private readonly sentences: TranslatedSentence[] = [];
  /** pieces[k]: of the k-th best. */
  private readonly pieces: string[][];
  private readonly scores: number[];
  /** How many are different from each other: the most candidates of any sentence. */
  private versions = 1;

  constructor(count: number) {
    this.pieces = Array.from({ length: count }, () => []);
    this.scores = new Array(count).fill(0);
  }

  add({ before, sentence, candidates, after }: DeliveredSentence): void {
    this.sentences.push(sentence);
    this.versions = Math.max(this.versions, candidates.length);
    this.pieces.forEach((pieces, k) => {
      const candidate = candidates[Math.min(k, candidates.length - 1)];
      pieces.push(before + (candidate?.text ?? sentence.text) + (after ?? ''));
      this.scores[k] = (this.scores[k] as number) + (candidate?.score ?? 0);
    });
  }

  addUntranslated(text: string): void {
    for (const pieces of this.pieces) pieces.push(text);
  }

  finish(): TranslatedText {
    const [text = '', ...others] = this.pieces.slice(0, this.versions).map((pieces) => pieces.join(''));
    return {
      text,
      alternatives: others.map((other, i) => {
        return { text: other, score: (this.scores[i + 1] as number) / this.sentences.length };
      }),
      finishReason: worstReason(this.sentences.map(({ finishReason }) => finishReason)),
      sentences: this.sentences,
    };
  }
}
