/** A worker that does nothing by itself: the test says what it posts and when it dies, and reads what it was sent. */
import type { EngineSettings } from '../../src/engine/client.js';
import type { ScoreRequest } from '../../src/engine/engine.js';
import type { EngineWorker } from '../../src/engine/keeper.js';
import type { FromEngine, ScoreJob, ScoreWindowResult, ToEngine } from '../../src/engine/protocol.js';
import type { ModelDescription } from '../../src/models/description.js';

interface Listeners {
  message: (message: FromEngine) => void;
  error: (error: Error) => void;
  exit: () => void;
}

/** The setup of a worker that nobody opens: small limits on the CPU. */
export function stubSetup(models: readonly ModelDescription[], blockTokens = 128): EngineSettings['setup'] {
  return {
    backend: 'ort-capi',
    threads: 1,
    spin: false,
    limits: { rowsMax: 64, lanesMax: 4, slotsMax: 64, finishRowsMax: 64 },
    cacheRowsMax: 64,
    span: { lanesMax: 4, blockTokens, sessionsMax: 2, idleMsMax: 1000 },
    queueWaitMsMax: 1000,
    models,
  };
}

/** To model a, with windows of these lengths. */
export function request(lengths: readonly number[]): ScoreRequest {
  return {
    model: 'a',
    windows: lengths.map((length) => ({ ids: new Int32Array(length), scoreFrom: 0 })),
    budget: { maxSteps: 8, minSteps: 1, threshold: 0.99 },
    topLogprobs: 0,
    deadlineAtMs: null,
  };
}

export class StubWorker implements EngineWorker {
  readonly sent: ToEngine[] = [];
  private readonly listeners: Partial<Listeners> = {};

  postMessage(message: ToEngine): void {
    this.sent.push(message);
  }

  on<E extends keyof Listeners>(event: E, listener: Listeners[E]): void {
    this.listeners[event] = listener as Listeners[E] & Partial<Listeners>[E];
  }

  post(message: FromEngine): void {
    this.listeners.message?.(message);
  }

  ready(): void {
    this.post({ type: 'ready', device: 'cpu', deviceReason: 'a stub', backend: 'stub', threads: 3 });
  }

  /** Whether it was told to end; it ends when the test says so. */
  terminated = false;

  terminate(): void {
    this.terminated = true;
  }

  /** Ends, with an error unless it is null. */
  die(error: string | null = null): void {
    if (error !== null) this.listeners.error?.(new Error(error));
    this.listeners.exit?.();
  }

  get jobs(): ScoreJob[] {
    return this.sent.flatMap((message) => (message.type === 'submit' ? [message.job as ScoreJob] : []));
  }

  /** Answers a job in full, windows in reverse order: nothing says that they come in theirs. */
  answer({ id, windows }: ScoreJob, startedAtMs = 0, finishedAtMs = 0): void {
    for (const index of [...windows.keys()].reverse())
      this.post({ type: 'window', jobId: id, index, result: result(index) });
    this.post({ type: 'done', jobId: id, startedAtMs, finishedAtMs });
  }
}

/** A result that can be told from others. */
export function result(index: number): ScoreWindowResult {
  return {
    logprobs: Float32Array.of(-index),
    depths: Uint8Array.of(index),
    remainders: Float32Array.of(0),
    topIds: new Int32Array(0),
    topLogprobs: new Float32Array(0),
    positionSteps: index,
  };
}
