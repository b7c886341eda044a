/** What translating a text gives: shared by HTTP, the LibreTranslate contract and the command line. */
import type { Budget, SentenceResult } from '../engine/protocol.js';

export interface TranslateSettings {
  readonly encoderBudget: Budget;
  readonly decoderBudget: Budget;
  /** 1 ... 8; 1 is greedy. At least `alternatives` + 1. */
  readonly beam: number;
  /** Further translations of each text, 0 ... beam - 1. */
  readonly alternatives: number;
  readonly lengthPenalty: number;
  /** Tokens of one sentence's translation at most, end of sentence included; null: twice the source's and 16. */
  readonly maxNewTokens: number | null;
  /** `html`: tags stay where they are, only text between them is translated. */
  readonly format: 'text' | 'html';
}

export interface TranslatedToken {
  readonly id: number;
  readonly text: string;
  readonly logprob: number;
  readonly depth: number;
}

/**
 * What a sentence cost, over all that was computed for it: a sentence may take several lanes (cut for its length or around a
 * tag) and several attempts (an address or a number was not kept).
 */
export interface TranslateCost {
  readonly lanes: number;
  /** Source positions, the end of each lane's sentence included. */
  readonly encoderPositions: number;
  readonly encoderSteps: number;
  readonly decoderPositions: number;
  readonly decoderSteps: number;
}

/**
 * One sentence: what the model saw, and the best it said. Where an address or a placeholder is in `source`, the model saw a stand-in
 * such as X1, and the tokens have that; `text` has the address. The end of sentence is in neither list of tokens, but counts in `cost` and
 * has its entry at the end of `result.encoderDepths`, and of each hypothesis' depths and log-probabilities (one for each lane).
 */
export interface TranslatedSentence {
  /** Place in the text, UTF-16 units. */
  readonly offset: number;
  readonly source: string;
  readonly text: string;
  /** Computed when it is read, like `tokens`: keep it if it is needed twice. */
  readonly sourceTokens: readonly { readonly id: number; readonly text: string; readonly depth: number }[];
  readonly tokens: readonly TranslatedToken[];
  readonly finishReason: 'stop' | 'length' | 'repetition';
  /** Of the attempt that was chosen; the hypothesis behind `text` comes first. Several lanes are put together as one. */
  readonly result: SentenceResult;
  readonly cost: TranslateCost;
}

export interface TranslatedText {
  readonly text: string;
  /** Other translations of the whole text, best first; `score` is the mean of its sentences' scores. */
  readonly alternatives: readonly { readonly text: string; readonly score: number }[];
  /** The worst of its sentences: repetition, then length, then stop. */
  readonly finishReason: 'stop' | 'length' | 'repetition';
  /** In order; empty for a text with nothing to translate, which comes back as it is. */
  readonly sentences: readonly TranslatedSentence[];
}

/** Hears of progress, in the order of the texts and of their sentences. */
export interface TranslateProgress {
  /** A stretch of the output is final: a sentence with the white space or markup before it; the last one also with what follows. */
  piece(textIndex: number, piece: string, sentence: TranslatedSentence | null): void;
  /** A token of the first unfinished sentence (greedy and streamed only). `textSoFar`: that sentence's text as far as it is decided. */
  token(textIndex: number, token: TranslatedToken, textSoFar: string): void;
}
