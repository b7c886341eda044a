/**
 * The engine as the rest of the server sees it: what HTTP routes, the CLI and the metrics depend on. `client.ts` implements it
 * over the worker thread; tests implement it in a few lines.
 */
import type { ModelDescription } from '../models/description.js';
import type {
  Budget,
  DeviceTelemetry,
  EngineTelemetry,
  GeneratedTokens,
  GenerateJob,
  Job,
  ScoreJob,
  ScoreWindowResult,
  SentenceResult,
  SequenceResult,
  SpanBlockResult,
  SpanJob,
  TokenScores,
  TranslateJob,
} from './protocol.js';

export type EngineState = 'starting' | 'ready' | 'restarting' | 'draining' | 'stopped';

export interface ScoreOutcome {
  /** One per window, in the order of the job's windows. */
  readonly windows: readonly ScoreWindowResult[];
  /** Waiting until the first lane was admitted, and from there to the last result. */
  readonly queueMs: number;
  readonly computeMs: number;
}

export type ScoreRequest = Omit<ScoreJob, 'id' | 'kind' | 'submittedAtMs'>;

export type TranslateRequest = Omit<TranslateJob, 'id' | 'kind' | 'submittedAtMs'>;

export interface TranslateOutcome {
  /** One per sentence, in the order of the job's. */
  readonly sentences: readonly SentenceResult[];
  readonly queueMs: number;
  readonly computeMs: number;
  /** From submission until the first token of any sentence was decided. */
  readonly firstTokenMs: number;
}

export type SpanRequest = Omit<SpanJob, 'id' | 'kind' | 'submittedAtMs' | 'blocksAhead'>;

export interface SpanOutcome {
  /** One per text, in order: its blocks put together. */
  readonly texts: readonly SpanBlockResult[];
  /** Tokens of the session's stream so far, this request's among them. */
  readonly position: number;
  readonly queueMs: number;
  readonly computeMs: number;
}

/**
 * A block of a text is done; called in order for each text. May not throw. A text waits for what the listener returns when it is a few
 * blocks ahead.
 */
export type SpanListener = (index: number, start: number, result: SpanBlockResult) => void | Promise<void>;

/** Hears of results as they come, in any order of sentences. Neither call may throw. */
export interface TranslateListener {
  sentence(index: number, result: SentenceResult): void;
  /** Only for a request with `streamTokens`. */
  token(index: number, id: number, logprob: number, depth: number): void;
}

export type GenerateRequest = Omit<GenerateJob, 'id' | 'kind' | 'submittedAtMs' | 'streamTokens'>;

export interface GenerateOutcome {
  /** One per prompt, in order. */
  readonly sequences: readonly SequenceResult[];
  readonly queueMs: number;
  readonly computeMs: number;
  /** From submission until the first new token of any sequence was decided; null: there is none. */
  readonly firstTokenMs: number | null;
}

/** Hears of results as they come: of one sequence in order, of several in any. No call may throw. */
export interface GenerateListener {
  /** The scores of the prompt's tokens, before the first new one; only for a request with `promptLogprobs`. */
  prompt(index: number, scores: TokenScores): void;
  /**
   * One new token (n = 1). True: the sequence ends with it, such as by a stop string. It is then in the outcome as the last token, with
   * 'stop' as the reason, nothing more of it is heard of, and it leaves the engine at the next step.
   */
  token(index: number, token: GeneratedTokens): boolean;
  /** The whole sequence; the same object as in the outcome. */
  sequence(index: number, result: SequenceResult): void;
}

export interface EngineInfo {
  readonly state: EngineState;
  /** Why the engine is not ready, null when it is. */
  readonly reason: string | null;
  readonly device: string;
  /** Why that device, in a sentence for people. */
  readonly deviceReason: string;
  /** Where the CPU serves what a GPU was expected to serve, and why: a sentence each. */
  readonly deviceWarnings: readonly string[];
  /** Of the GPU, at the last report; null: the CPU. */
  readonly deviceMemory: Pick<DeviceTelemetry, 'usedBytes' | 'totalBytes'> | null;
  readonly backend: string;
  readonly threads: number;
  /** Times the worker was restarted after it died. */
  readonly restarts: number;
  /** Predicted engine time of all that is in. */
  readonly backlogMs: number;
}

/** A request before it was tokenised. */
export type Foreseen = {
  readonly kind: Job['kind'];
  readonly model: string;
  readonly tenant: string;
  readonly deadlineAtMs: number | null;
} & (
  | {
      /** Of its texts, before they are tokenised. */
      readonly bytes: number;
    }
  | {
      /** New ones included. */
      readonly tokens: number;
    }
);

export interface Engine {
  info(): EngineInfo;
  models(): readonly ModelDescription[];
  /** Steps for a request that takes fewer under pressure: the most with which it meets the target, at least the floor. */
  grantSteps(foreseen: Foreseen, budget: Budget, limits: { readonly targetMs: number; readonly floor: number }): number;
  /** Throws QUEUE_FULL when a request like this would be late, before it costs anything. */
  refuseIfLate(foreseen: Foreseen): void;
  /**
   * Scores all windows of one request. Rejects with a ServerError: QUEUE_FULL, NOT_READY, DRAINING, ENGINE_LOST,
   * DEADLINE_EXCEEDED, or CLIENT_CLOSED once `signal` aborts (the lanes leave at the next step).
   */
  score(request: ScoreRequest, signal: AbortSignal): Promise<ScoreOutcome>;
  /** Translates all sentences of one request; rejects as `score` does. */
  translate(request: TranslateRequest, signal: AbortSignal, listener?: TranslateListener): Promise<TranslateOutcome>;
  /**
   * Scores texts of any length with a span model, block by block; rejects as `score` does, and with SESSION_UNKNOWN, SESSION_OPEN or
   * SESSION_BUSY. With a listener the outcome's texts are empty: whoever listens has had them.
   */
  scoreStream(request: SpanRequest, signal: AbortSignal, listener?: SpanListener): Promise<SpanOutcome>;
  /**
   * Continues prompts with a language model, of any family that scores; rejects as `score` does, and with INVALID_REQUEST for a prompt
   * longer than the model's context.
   */
  generate(request: GenerateRequest, signal: AbortSignal, listener?: GenerateListener): Promise<GenerateOutcome>;
  /** Frees what a session holds. Rejects with SESSION_UNKNOWN or SESSION_BUSY, NOT_READY, DRAINING or ENGINE_LOST. */
  endSession(model: string, key: string): Promise<void>;
  /** Serves one more model, beside what is in. Rejects with a ServerError: INVALID_REQUEST with the runtime's reason, NOT_READY, DRAINING. */
  load(model: ModelDescription): Promise<void>;
  /**
   * Hides a model at once; resolves when its jobs have been answered and its memory is given back.
   * @param settled jobs are taken until then: of requests that have seen the model but not reached the engine yet
   */
  unload(id: string, settled: Promise<void>): Promise<void>;
  /** Calls back with every report of the loop. Returns how to stop. */
  onTelemetry(listener: (telemetry: EngineTelemetry) => void): () => void;
  /** Finishes what is in, refuses what is new (DRAINING), and resolves when the worker has stopped and released everything. */
  drain(timeoutMs: number): Promise<void>;
}
