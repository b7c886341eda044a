/** Texts to translations: the one entry that HTTP, the LibreTranslate contract and the command line call. */
import type { Engine } from '../engine/engine.js';
import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { TranslatedText, TranslateProgress, TranslateSettings } from './types.js';

export interface TranslateDependencies {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly model: ModelDescription;
}

export interface TranslateInput {
  readonly text: string;
  /** How errors call it, e.g. `input[3]`. */
  readonly param: string;
}

export interface TranslateOptions {
  readonly signal: AbortSignal;
  /** On the clock of `monotonicMs`; null: none. */
  readonly deadlineAtMs: number | null;
  readonly progress?: TranslateProgress;
  /** Send tokens to `progress`; greedy only. */
  readonly streamTokens?: boolean;
}

/** Times in milliseconds. */
export interface TranslateWork {
  readonly texts: TranslatedText[];
  /** Waiting until the first sentence was admitted, and from there to the last result. */
  readonly queueMs: number;
  readonly computeMs: number;
  readonly tokenizeMs: number;
  /** From the call until the first token of any sentence was decided; 0 when there was nothing to translate. */
  readonly firstTokenMs: number;
}

/**
 * @throws ServerError as `Engine.translate` does, or INVALID_REQUEST naming the member of `texts` that can't be translated
 */
export async function translateTexts(
  _deps: TranslateDependencies,
  _texts: readonly TranslateInput[],
  _settings: TranslateSettings,
  _options: TranslateOptions,
): Promise<TranslateWork> {
  throw new Error('under construction');
}
