/**
 * The way of sentences to the engine: lanes that are asked for one by one go in jobs of a few dozen, several jobs at a time, so that
 * results come early, memory is bounded however long the text is, and an abort leaves nothing behind.
 *
 * The queue's limits hold for the whole request at its first job: when that one is refused, or waits too long, the request
 * fails (QUEUE_FULL). Once it is in, a full queue makes the further jobs wait and try again, since half a translation is none;
 * what bounds that wait is the deadline and the patience of the client.
 */
import { setMaxListeners } from 'node:events';
import { monotonicMs } from '../clock.js';
import type { Engine, TranslateRequest } from '../engine/engine.js';
import type { SentenceResult } from '../engine/protocol.js';
import { ServerError } from '../errors.js';

const JOB_LANES = 32;
const LANES_IN_FLIGHT = 256;
const RETRY_MS_MIN = 20;
const RETRY_MS_MAX = 1000;

export type LaneRequest = Omit<TranslateRequest, 'sentences' | 'maxNewTokens' | 'beam'>;
export type TokenListener = (id: number, logprob: number, depth: number) => void;

export interface LaneOptions {
  readonly maxNewTokens: number;
  readonly beam: number;
  /** Before others that wait: the second try of a sentence whose turn has come. */
  readonly urgent: boolean;
  readonly onToken: TokenListener | null;
}

interface Lane extends LaneOptions {
  readonly ids: Int32Array;
  readonly resolve: (result: SentenceResult) => void;
  readonly reject: (error: unknown) => void;
}

export class Lanes {
  private waiting: Lane[] = [];
  private readonly flying = new Set<Lane>();
  private readonly running = new Set<Promise<void>>();
  private jobs = 0;
  private scheduled = false;
  private retryMs = RETRY_MS_MIN;
  private retryTimer: NodeJS.Timeout | null = null;
  private failure: { readonly error: unknown } | null = null;
  private readonly failed = new AbortController();
  private startedAtMs = Number.POSITIVE_INFINITY;
  private finishedAtMs = 0;
  private firstTokenAtMs = Number.POSITIVE_INFINITY;
  queueMs = 0;

  constructor(
    private readonly engine: Pick<Engine, 'translate'>,
    private readonly request: LaneRequest,
    private readonly outer: AbortSignal,
  ) {
    // Every job under way listens.
    setMaxListeners(0, this.failed.signal);
    outer.addEventListener('abort', this.onAbort, { once: true });
  }

  private readonly onAbort = (): void =>
    this.fail(new ServerError('CLIENT_CLOSED', 'the client closed the connection'));

  /** `ids` with `</s>`. */
  translate(ids: Int32Array, options: LaneOptions): Promise<SentenceResult> {
    if (this.outer.aborted) this.onAbort();
    if (this.failure !== null) return Promise.reject(this.failure.error);
    return new Promise((resolve, reject) => {
      const lane = { ids, ...options, resolve, reject };
      if (options.urgent) this.waiting.unshift(lane);
      else this.waiting.push(lane);
      this.schedule();
    });
  }

  get computeMs(): number {
    return Math.max(0, this.finishedAtMs - this.startedAtMs);
  }

  firstTokenMs(sinceMs: number): number {
    return Number.isFinite(this.firstTokenAtMs) ? Math.max(0, this.firstTokenAtMs - sinceMs) : 0;
  }

  /** Gives up what is under way, if anything is. */
  close(): void {
    this.outer.removeEventListener('abort', this.onAbort);
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
    if (this.waiting.length + this.flying.size > 0) this.onAbort();
  }

  /** Sentences ask one by one; those of one turn of the event loop share jobs. */
  private schedule(): void {
    if (this.scheduled || this.retryTimer !== null) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.dispatch();
    });
  }

  private dispatch(): void {
    while (this.waiting.length > 0 && this.failure === null && this.retryTimer === null) {
      const free = LANES_IN_FLIGHT - this.flying.size;
      // Small jobs cost messages; a full one is worth waiting for while the engine has enough to do.
      if (free < JOB_LANES || (this.waiting.length < JOB_LANES && this.flying.size > LANES_IN_FLIGHT / 2)) return;
      const running = this.run(this.takeJob()).finally(() => this.running.delete(running));
      this.running.add(running);
    }
  }

  /** Resolves when every job has told its times: a job's last result comes before its end. */
  async settled(): Promise<void> {
    while (this.running.size > 0) await Promise.all(this.running);
  }

  /** Lanes of one beam, in their order. */
  private takeJob(): readonly Lane[] {
    const beam = this.waiting[0]?.beam;
    const taken = new Set(this.waiting.filter((lane) => lane.beam === beam).slice(0, JOB_LANES));
    this.waiting = this.waiting.filter((lane) => !taken.has(lane));
    return [...taken];
  }

  private async run(lanes: readonly Lane[]): Promise<void> {
    const isFirst = this.jobs++ === 0;
    const submittedAtMs = monotonicMs();
    const unanswered = new Set(lanes);
    for (const lane of lanes) this.flying.add(lane);
    const leave = (lane: Lane): void => {
      unanswered.delete(lane);
      this.flying.delete(lane);
    };
    try {
      const outcome = await this.engine.translate(
        {
          ...this.request,
          beam: lanes[0]?.beam ?? 1,
          sentences: lanes.map(({ ids }) => ids),
          maxNewTokens: lanes.map(({ maxNewTokens }) => maxNewTokens),
        },
        this.failed.signal,
        {
          token: (index, id, logprob, depth) => lanes[index]?.onToken?.(id, logprob, depth),
          sentence: (index, result) => {
            const lane = lanes[index] as Lane;
            leave(lane);
            this.note(result);
            lane.resolve(result);
            this.schedule();
          },
        },
      );
      // An engine without a listener's patience answers all at once.
      for (const lane of [...unanswered]) {
        const result = outcome.sentences[lanes.indexOf(lane)] as SentenceResult;
        leave(lane);
        this.note(result);
        lane.resolve(result);
      }
      if (isFirst) this.queueMs = outcome.queueMs;
      this.startedAtMs = Math.min(this.startedAtMs, submittedAtMs + outcome.queueMs);
      this.retryMs = RETRY_MS_MIN;
      this.schedule();
    } catch (error) {
      const rest = [...unanswered];
      for (const lane of rest) this.flying.delete(lane);
      const full = error instanceof ServerError && error.code === 'QUEUE_FULL';
      if (full && !isFirst && this.failure === null) this.waitAndRetry(rest);
      else {
        for (const lane of rest) lane.reject(this.failure?.error ?? error);
        this.fail(error);
      }
    }
  }

  private note({ firstTokenAtMs }: SentenceResult): void {
    this.finishedAtMs = monotonicMs();
    this.firstTokenAtMs = Math.min(this.firstTokenAtMs, firstTokenAtMs);
  }

  private waitAndRetry(lanes: readonly Lane[]): void {
    this.waiting.unshift(...lanes);
    if (this.retryTimer !== null) return;
    const leftMs = (this.request.deadlineAtMs ?? Number.POSITIVE_INFINITY) - monotonicMs();
    if (leftMs <= 0) {
      this.fail(
        new ServerError('DEADLINE_EXCEEDED', 'the deadline passed while the queue was full: raise deadline_ms'),
      );
      return;
    }
    this.retryTimer = setTimeout(
      () => {
        this.retryTimer = null;
        this.dispatch();
      },
      Math.min(this.retryMs, leftMs),
    );
    this.retryMs = Math.min(RETRY_MS_MAX, 2 * this.retryMs);
  }

  /** One lane's end is the end of all. */
  private fail(error: unknown): void {
    if (this.failure !== null) return;
    this.failure = { error };
    this.failed.abort();
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
    for (const lane of this.waiting.splice(0)) lane.reject(error);
  }
}
