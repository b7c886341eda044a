/**
 * The engine as the rest of the server sees it: what HTTP routes, the CLI and the metrics depend on. `client.ts` implements it
 * over the worker thread; tests implement it in a few lines.
 */
import type { ModelDescription } from '../models/description.js';
import type {
  EngineTelemetry,
  ScoreJob,
  ScoreWindowResult,
  SentenceResult,
  SpanBlockResult,
  SpanJob,
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

export type SpanRequest = Omit<SpanJob, 'id' | 'kind' | 'submittedAtMs'>;

export interface SpanOutcome {
  /** One per text, in order: its blocks put together. */
  readonly texts: readonly SpanBlockResult[];
  readonly queueMs: number;
  readonly computeMs: number;
}

/** A block of a text is done; called in order for each text. May not throw. */
export type SpanListener = (index: number, start: number, result: SpanBlockResult) => void;

/** Hears of results as they come, in any order of sentences. Neither call may throw. */
export interface TranslateListener {
  sentence(index: number, result: SentenceResult): void;
  /** Only for a request with `streamTokens`. */
  token(index: number, id: number, logprob: number, depth: number): void;
}

export interface EngineInfo {
  readonly state: EngineState;
  /** Why the engine is not ready, null when it is. */
  readonly reason: string | null;
  readonly device: string;
  readonly backend: string;
  readonly threads: number;
  /** Times the worker was restarted after it died. */
  readonly restarts: number;
}

export interface Engine {
  info(): EngineInfo;
  models(): readonly ModelDescription[];
  /**
   * Scores all windows of one request. Rejects with a ServerError: QUEUE_FULL, NOT_READY, DRAINING, ENGINE_LOST,
   * DEADLINE_EXCEEDED, or CLIENT_CLOSED once `signal` aborts (the lanes leave at the next step).
   */
  score(request: ScoreRequest, signal: AbortSignal): Promise<ScoreOutcome>;
  /** Translates all sentences of one request; rejects as `score` does. */
  translate(request: TranslateRequest, signal: AbortSignal, listener?: TranslateListener): Promise<TranslateOutcome>;
  /**
   * Scores texts of any length with a span model, block by block; rejects as `score` does, and with SESSION_UNKNOWN or
   * SESSION_BUSY. With a listener the outcome's texts are empty: whoever listens has had them.
   */
  scoreStream(request: SpanRequest, signal: AbortSignal, listener?: SpanListener): Promise<SpanOutcome>;
  /** Calls back with every report of the loop. Returns how to stop. */
  onTelemetry(listener: (telemetry: EngineTelemetry) => void): () => void;
  /** Finishes what is in, refuses what is new (DRAINING), and resolves when the worker has stopped and released everything. */
  drain(timeoutMs: number): Promise<void>;
}
