/**
 * What crosses between the main thread and the engine worker: a closed, typed union in each direction.
 * Token ids go in, results and telemetry come out; hidden states never cross. Typed arrays in results are transferred,
 * not copied. All times are milliseconds of `monotonicMs` (one clock for every thread of the process).
 */
import type { ErrorCode } from '../errors.js';
import type { ModelDescription } from '../models/description.js';

/** What one request may spend per token. See "What a request's budget means" in README.md. */
export interface Budget {
  /** Step at which every position that still runs is stopped (its remainder goes there); 1 ... the model's maximum. */
  readonly maxSteps: number;
  /** No position halts before this step; 1 ... maxSteps. */
  readonly minSteps: number;
  /** Halting sum above which a position leaves; within (0, 1]. */
  readonly threshold: number;
}

/** One window of text to score: `ids` without `<s>`; log-probabilities are wanted for `ids[scoreFrom]` and all after it. */
export interface ScoreWindow {
  readonly ids: Int32Array;
  readonly scoreFrom: number;
}

/** A scoring request: every window becomes one lane of the engine. */
export interface ScoreJob {
  readonly kind: 'score';
  readonly id: number;
  readonly model: string;
  readonly windows: readonly ScoreWindow[];
  readonly budget: Budget;
  /** Number of best candidates to return per token, 0 ... 20. */
  readonly topLogprobs: number;
  readonly submittedAtMs: number;
  /** The job is given up (DEADLINE_EXCEEDED) when this moment passes; null: no deadline. */
  readonly deadlineAtMs: number | null;
  /** Whose request it is; tenants share the engine alike. Absent: nobody's in particular. */
  readonly tenant?: string;
}

/** A translation request: every sentence becomes an encoder lane, and then hypotheses of the decoder. */
export interface TranslateJob {
  readonly kind: 'translate';
  readonly id: number;
  readonly model: string;
  /** Source ids of each sentence, `</s>` included; 2 ... the model's context. */
  readonly sentences: readonly Int32Array[];
  readonly encoderBudget: Budget;
  readonly decoderBudget: Budget;
  /** 1 is greedy decoding. */
  readonly beam: number;
  /** A hypothesis scores its log-probability over length^lengthPenalty. */
  readonly lengthPenalty: number;
  /** Tokens of a translation at most, per sentence; the end of sentence counts. */
  readonly maxNewTokens: readonly number[];
  /** Send each token as it is decided; greedy only. */
  readonly streamTokens: boolean;
  readonly submittedAtMs: number;
  readonly deadlineAtMs: number | null;
  readonly tenant?: string;
}

/** Scoring with a model whose cache goes from block to block: texts of any length, answered block by block. */
export interface SpanJob {
  readonly kind: 'span';
  readonly id: number;
  readonly model: string;
  /** Token ids to predict; each text is a stream of its own. One text when `session` is given. */
  readonly texts: readonly Int32Array[];
  /** Caps the span z of every head, in keys (the ramp comes on top); null: the model's own. */
  readonly spanCap: number | null;
  readonly topLogprobs: number;
  /**
   * The cache is kept under this key. `continues`: it is there already, and this text follows what it has seen; `ends`: it is not
   * needed afterwards.
   */
  readonly session: { readonly key: string; readonly continues: boolean; readonly ends: boolean } | null;
  /** Blocks of a text computed before the first of them is `taken`; null: nobody takes them one by one. */
  readonly blocksAhead: number | null;
  readonly submittedAtMs: number;
  readonly deadlineAtMs: number | null;
  readonly tenant?: string;
}

/**
 * Continues prompts with a language model, each a sequence of its own. What a sequence says depends on its prompt, its seed and the
 * settings below, never on what else the engine does.
 */
export interface GenerateJob {
  readonly kind: 'generate';
  readonly id: number;
  readonly model: string;
  /** Token ids without `<s>`; a prompt may be empty, and may fill the model's context (`contextTokens`) but not exceed it. */
  readonly prompts: readonly Int32Array[];
  /** A model of fixed depth takes its one step whatever this says. */
  readonly budget: Budget;
  /** As for SpanJob; null for a model without spans. */
  readonly spanCap: number | null;
  /**
   * New tokens of each sequence at most; 0: the prompts are scored only. Prompt and new tokens together end at the model's context, as
   * at vLLM's max_model_len: the sequence then finishes by 'length'. Whoever asked for more is refused before it gets here.
   */
  readonly maxNewTokens: number;
  /** 0: the best token each time, of equal ones the lowest id. Else log-probabilities are divided by it before one is drawn. */
  readonly temperature: number;
  /** (0, 1]: drawn from the fewest best tokens whose probabilities, after temperature, sum to at least this. */
  readonly topP: number;
  /** A safe integer a prompt. The t-th new token is drawn with a random number that is a function of (seed, t). */
  readonly seeds: readonly number[];
  /** Best candidates to return per token, 0 ... 20. */
  readonly topLogprobs: number;
  /** Score the prompt's tokens as well. */
  readonly promptLogprobs: boolean;
  /** A sequence ends after one of these. */
  readonly stopIds: readonly number[];
  /** Send the prompt's scores, and each token when it is decided, and not only the whole. */
  readonly streamTokens: boolean;
  readonly submittedAtMs: number;
  readonly deadlineAtMs: number | null;
  readonly tenant?: string;
}

export type Job = ScoreJob | TranslateJob | SpanJob | GenerateJob;

/**
 * `n` tokens, in order. Log-probabilities are the model's own, before temperature and top_p; a token's is the same float as in
 * `topLogprobs` when it is among the best.
 */
export interface TokenScores {
  /** [n] nats. */
  readonly logprobs: Float32Array;
  /** [n, topLogprobs] best first; of equal ones the lowest id first. */
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  /** [n] steps N and remainder R of the position that predicts the token; empty for a model of fixed depth. */
  readonly depths: Uint8Array;
  readonly remainders: Float32Array;
  /** [n] mean span z over all heads, in keys; empty for a model whose spans do not depend on the token. */
  readonly spans: Float32Array;
}

export interface GeneratedTokens extends TokenScores {
  /** [n] */
  readonly ids: Int32Array;
}

export interface SequenceResult {
  /** Of all tokens of the prompt; null unless asked for. */
  readonly prompt: TokenScores | null;
  /** A stop id that ended it is the last. */
  readonly tokens: GeneratedTokens;
  /** 'stop': a stop id, or whoever listened said so. 'length': maxNewTokens or the context is reached. */
  readonly finishReason: 'stop' | 'length';
  /** Positions computed, the prompt's included, and steps over all of them: the cost of the sequence. */
  readonly positions: number;
  readonly positionSteps: number;
  /** Rows of key and value cache it held in the end; 0 where a cache's size is the model's and not the text's. */
  readonly cacheRows: number;
  /** When the first new token was decided; null: there is none. */
  readonly firstTokenAtMs: number | null;
}

/** `n` tokens of a text, in order. */
export interface SpanBlockResult {
  /** [n] nats. */
  readonly logprobs: Float32Array;
  /** [n, topLogprobs] */
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  /** [n] mean keys of all heads, ramp included; empty for a model whose spans do not depend on the token. */
  readonly spans: Float32Array;
}

/** One translation of a sentence. */
export interface TranslationHypothesis {
  /** [n] without `</s>`. */
  readonly ids: Int32Array;
  /** [n], or [n + 1] where it ended with `</s>`: nats, and decoder steps. */
  readonly logprobs: Float32Array;
  readonly depths: Uint8Array;
  /** Sum of the log-probabilities over length^lengthPenalty. */
  readonly score: number;
  readonly finishReason: 'stop' | 'length' | 'repetition';
}

export interface SentenceResult {
  /** `beam` of them at most, best first. */
  readonly hypotheses: readonly TranslationHypothesis[];
  /** [source positions] encoder steps. */
  readonly encoderDepths: Uint8Array;
  /** Rows computed in full: the cost of the sentence in each stack. */
  readonly encoderSteps: number;
  readonly decoderSteps: number;
  /** Decoder positions computed, over all hypotheses. */
  readonly decoderPositions: number;
  /** When the first token was decided. */
  readonly firstTokenAtMs: number;
}

/** Per scored token of one window, in order. `n` = ids.length - scoreFrom. */
export interface ScoreWindowResult {
  /** [n] nats. */
  readonly logprobs: Float32Array;
  /** [n] steps N of the position that predicts the token. */
  readonly depths: Uint8Array;
  /** [n] remainder R of that position. */
  readonly remainders: Float32Array;
  /** [n, topLogprobs] token ids, best first; empty when none were asked for. */
  readonly topIds: Int32Array;
  /** [n, topLogprobs] nats. */
  readonly topLogprobs: Float32Array;
  /** Steps run over ALL positions of the window, context included: the lane's cost. */
  readonly positionSteps: number;
}

export type ToEngine =
  | { readonly type: 'submit'; readonly job: Job }
  | { readonly type: 'abort'; readonly jobId: number }
  /** One sequence of a GenerateJob has said enough: it is answered as it stands. Harmless when it has already ended. */
  | { readonly type: 'stop'; readonly jobId: number; readonly index: number }
  /** Whoever listens has read a block of a text: another one may be computed. */
  | { readonly type: 'taken'; readonly jobId: number; readonly index: number }
  /** Answered with `done` or `failed`. */
  | { readonly type: 'end-session'; readonly jobId: number; readonly model: string; readonly key: string }
  /** Serve one more model. Answered with `done` or `failed`, as is the next. */
  | { readonly type: 'open'; readonly jobId: number; readonly model: ModelDescription }
  /** Finish the jobs of a model, take no new ones, and release it. */
  | { readonly type: 'close'; readonly jobId: number; readonly model: string }
  /** Finish what is in, take nothing new, then answer `drained`. */
  | { readonly type: 'drain' };

export type FromEngine =
  | {
      readonly type: 'ready';
      readonly device: string;
      /** Why that device. */
      readonly deviceReason: string;
      readonly backend: string;
      readonly threads: number;
    }
  /** The CPU serves a model, or all of them (null), that a GPU was expected to serve. */
  | { readonly type: 'device-warning'; readonly model: string | null; readonly reason: string }
  /** A package that the runtime could not open; sent before `ready`. */
  | { readonly type: 'refused'; readonly model: string; readonly reason: string }
  | { readonly type: 'window'; readonly jobId: number; readonly index: number; readonly result: ScoreWindowResult }
  | {
      readonly type: 'token';
      readonly jobId: number;
      readonly index: number;
      readonly id: number;
      readonly logprob: number;
      readonly depth: number;
    }
  | {
      readonly type: 'block';
      readonly jobId: number;
      readonly index: number;
      /** Place of the block's first token in the text, and in the session's stream. */
      readonly start: number;
      readonly position: number;
      readonly result: SpanBlockResult;
    }
  /** The scores of a prompt, and a new token, of a GenerateJob with `streamTokens`. */
  | { readonly type: 'prompt'; readonly jobId: number; readonly index: number; readonly scores: TokenScores }
  | { readonly type: 'generated'; readonly jobId: number; readonly index: number; readonly token: GeneratedTokens }
  | { readonly type: 'sequence'; readonly jobId: number; readonly index: number; readonly result: SequenceResult }
  | { readonly type: 'sentence'; readonly jobId: number; readonly index: number; readonly result: SentenceResult }
  /** Sent once per job after its last window, or instead of it. `startedAtMs`: its first lane was admitted. */
  | { readonly type: 'done'; readonly jobId: number; readonly startedAtMs: number; readonly finishedAtMs: number }
  | {
      readonly type: 'failed';
      readonly jobId: number;
      readonly code: ErrorCode;
      readonly message: string;
      /** The field at fault, where there is one. */
      readonly param?: string | null;
    }
  | { readonly type: 'telemetry'; readonly telemetry: EngineTelemetry }
  | { readonly type: 'drained' };

/**
 * What the loop did since the last report (sent at most every `TELEMETRY_INTERVAL_MS`, and when it falls idle).
 * Counters are increments; gauges are the value at the time of sending.
 */
export interface EngineTelemetry {
  readonly stages: readonly StageTelemetry[];
  readonly lanesWaiting: number;
  readonly lanesRunning: number;
  readonly slotsUsed: number;
  readonly slotsTotal: number;
  /** Rows of the decoders' key and value pools: positions times depths. */
  readonly cacheRowsUsed: number;
  readonly cacheRowsTotal: number;
  /** Only where there is a GPU. */
  readonly device?: DeviceTelemetry;
}

export interface DeviceTelemetry {
  /** As in `--device`: cuda:0. */
  readonly name: string;
  /** Of the whole device, whoever uses it. */
  readonly usedBytes: number;
  readonly totalBytes: number;
  /** Seconds that it ran graphs, since the last report. */
  readonly busySeconds: number;
}

/** What a model's stack does: a language model scores and generates, a translation model encodes and decodes. */
export type StageName = 'score' | 'generate' | 'encoder' | 'decoder';

export interface StageTelemetry {
  readonly model: string;
  readonly stage: StageName;
  readonly steps: number;
  /** Seconds spent in begin, step and finish graphs. */
  readonly computeSeconds: number;
  /** Seconds spent deciding and settling between graphs: the scheduler's own cost. */
  readonly hostSeconds: number;
  /** Positions that were computed in full, and positions that only renewed their keys and values, summed over steps. */
  readonly activeRows: number;
  readonly renewedRows: number;
  /** Rows computed only because launches are captured for fixed row counts. */
  readonly paddedRows: number;
  /** Attention rows and keys computed beyond those asked for (padding of ragged units), in keys. */
  readonly keysUseful: number;
  readonly keysComputed: number;
  /** Active rows of each step, one entry a step, for the histogram. */
  readonly rowsPerStep: readonly number[];
  /** haltedAtStep[t]: positions that halted at step t (index 0 unused); length maxSteps + 1. */
  readonly haltedAtStep: readonly number[];
  /** Sum of the remainders of those positions, and a histogram over tenths ([0,0.1), ... [0.9,1]). */
  readonly remainderTenths: readonly number[];
  readonly remainderSum: number;
  /** Only of a model with attention spans. */
  readonly span?: SpanTelemetry;
}

/** Upper bounds of the histogram of spans, in keys. */
export const SPAN_BOUNDS = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192] as const;

export interface SpanTelemetry {
  /** Keys that heads of full span would have looked at. */
  readonly keysFull: number;
  /** What the tokens cost at least, in multiplications, and what their blocks cost, padding included. */
  readonly multiplicationsNeeded: number;
  readonly multiplicationsComputed: number;
  /** Tokens by the mean span of their heads, in the buckets of SPAN_BOUNDS and one above; and the sum of those means. */
  readonly tokensBySpan: readonly number[];
  readonly spanSum: number;
  /** Now. */
  readonly sessionsOpen: number;
  readonly cacheBytesUsed: number;
  readonly cacheBytesTotal: number;
}
