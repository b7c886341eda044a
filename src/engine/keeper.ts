/**
 * Keeps a worker running: starts it, hears when it is ready, notices when it stalls, restarts it when it dies, and ends it when the server
 * shuts down. It knows nothing of jobs: whoever has them is told when they are lost.
 */
import { Worker } from 'node:worker_threads';
import { ServerError } from '../errors.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { HandleLedger } from '../runtime/handle-ledger.js';
import type { EngineInfo, EngineState } from './engine.js';
import type { FromEngine, ToEngine } from './protocol.js';
import { backgroundTimers, type Timers } from './timers.js';
import { Watchdog } from './watchdog.js';
import type { WorkerSetup } from './worker.js';

// A worker that dies at once each time is not restarted in a tight loop; one that served for a while is back at once.
const RESTART_DELAY_MS_MIN = 50;
const RESTART_DELAY_MS_MAX = 500;
const STABLE_AFTER_MS = 10_000;

/** A thread that does not end within this time after it was told to is inside native code, and nothing can end it. */
const TERMINATE_MS_MAX = 5_000;
const STALL_MS_MAX = 30_000;

/** What is needed of a worker thread. `exit` comes last, after `error` if there was one. */
export interface EngineWorker {
  postMessage(message: ToEngine): void;
  /** What was posted since the last time, in order, or a single message. */
  on(event: 'message', listener: (messages: FromEngine | readonly FromEngine[]) => void): void;
  on(event: 'error', listener: (error: Error) => void): void;
  on(event: 'exit', listener: () => void): void;
  /** Ends the thread between two of its native calls; `exit` follows. */
  terminate(): unknown;
}

export interface KeeperSettings {
  readonly setup: Omit<WorkerSetup, 'handles'>;
  /** Longest time without a sign of life while there is work; then the worker is ended and another one started. */
  readonly stallMsMax?: number;
  readonly terminateMsMax?: number;
  /** Called when only another process can go on: a worker that stalled can't be ended either, or the GPU does not come back. */
  readonly onStuck?: (reason: string) => void;
  /** Tests bring their own worker and timers. */
  readonly spawn?: (setup: WorkerSetup) => EngineWorker;
  readonly timers?: Timers;
}

/** What concerns jobs. */
export interface KeeperListener {
  heard(message: FromEngine): void;
  /** Every job is lost, and why. */
  lost(failure: string): void;
}

export function spawnWorker(setup: WorkerSetup): Worker {
  return new EngineThread(new URL('./thread.js', import.meta.url), { workerData: setup });
}

/**
 * Messages of a turn of the event loop travel together, in their order: each on its own costs both threads several microseconds. They are plain data
 * (protocol.ts): one that can't be cloned is a defect, and ends the process rather than the request that it was part of.
 */
class EngineThread extends Worker {
  private outbox: ToEngine[] = [];

  override postMessage(message: ToEngine): void {
    if (this.outbox.push(message) === 1) queueMicrotask(() => this.flush());
  }

  private flush(): void {
    super.postMessage(this.outbox);
    this.outbox = [];
  }
}

export class WorkerKeeper {
  /** Served by this worker, and by the next one. */
  models: readonly ModelDescription[];
  private worker: EngineWorker | null = null;
  private state: EngineState = 'starting';
  private reason: string | null = 'the engine is loading its models';
  private ready = { device: 'cpu', deviceReason: '', backend: '', threads: 0 };
  /** By model, and null for all of them. */
  private readonly deviceWarnings = new Map<string | null, string>();
  private deviceMemory: EngineInfo['deviceMemory'] = null;
  /** Those of the worker before. */
  private warnedBefore: ReadonlySet<string | null> = new Set();
  private restarts = 0;
  private restartDelayMs = RESTART_DELAY_MS_MIN;
  private cancelRestart: (() => void) | null = null;
  private cancelStuck: (() => void) | null = null;
  private readonly refusedByRuntime = new Map<string, string>();
  private readonly startup: Promise<void>;
  private settleStartup: { resolve: () => void; reject: (error: Error) => void } | null = null;
  private stopped: (() => void) | null = null;
  private draining: Promise<void> | null = null;
  private readonly watchdog: Watchdog;
  private readonly handles = HandleLedger.memory();

  constructor(
    private readonly settings: KeeperSettings,
    private readonly listener: KeeperListener,
    private readonly now: () => number,
    private readonly timers: Timers,
  ) {
    this.watchdog = new Watchdog(this.stallMsMax, now, settings.timers ?? backgroundTimers, () => this.stalled());
    this.models = settings.setup.models;
    this.startup = new Promise((resolve, reject) => {
      this.settleStartup = { resolve, reject };
    });
    this.startup.catch(() => {}); // reported by `started`, whoever awaits it
    this.spawn();
  }

  private get stallMsMax(): number {
    return this.settings.stallMsMax ?? STALL_MS_MAX;
  }

  private get terminateMsMax(): number {
    return this.settings.terminateMsMax ?? TERMINATE_MS_MAX;
  }

  /** Resolves when the first worker is ready; rejects when it can't start. */
  started(): Promise<void> {
    return this.startup;
  }

  info(): Omit<EngineInfo, 'backlogMs'> {
    return {
      state: this.state,
      reason: this.reason,
      ...this.ready,
      deviceWarnings: [...this.deviceWarnings.values()],
      deviceMemory: this.deviceMemory,
      restarts: this.restarts,
    };
  }

  /** Packages that passed their checks but that the runtime could not open. */
  refused(): readonly RefusedModel[] {
    return [...this.refusedByRuntime].map(([id, reason]) => ({ id, reason }));
  }

  opened(model: ModelDescription): void {
    this.refusedByRuntime.delete(model.id);
    this.models = [...this.models, model];
  }

  hide(model: ModelDescription): void {
    this.models = this.models.filter((one) => one !== model);
    this.deviceWarnings.delete(model.id);
  }

  /** Throws ServerError NOT_READY or DRAINING. */
  refuseUnlessReady(): void {
    switch (this.state) {
      case 'ready':
        return;
      case 'starting':
      case 'restarting':
        throw new ServerError('NOT_READY', `the engine is not ready: ${this.reason}; retry shortly`);
      case 'draining':
      case 'stopped':
        throw new ServerError('DRAINING', 'the server is shutting down; send the request to another replica');
      default:
        this.state satisfies never;
    }
  }

  send(message: ToEngine): void {
    this.worker?.postMessage(message);
  }

  /** There is work from now on: silence means that a step hangs. */
  watch(): void {
    this.watchdog.watch();
  }

  /** There is none any more. */
  rest(): void {
    this.watchdog.rest();
  }

  private spawn(): void {
    const { spawn = spawnWorker, setup } = this.settings;
    const worker = spawn({ ...setup, models: this.models, handles: this.handles });
    this.warnedBefore = new Set(this.deviceWarnings.keys());
    this.deviceWarnings.clear();
    this.deviceMemory = null;
    const spawnedAtMs = this.now();
    let failure = 'it ended without a reason';
    this.worker = worker;
    worker.on('message', (messages) => {
      this.watchdog.heard();
      for (const message of [messages].flat() as FromEngine[]) this.receive(message);
    });
    worker.on('error', (error) => {
      failure = error.message;
    });
    worker.on('exit', () => {
      if (this.worker !== worker) return;
      this.worker = null;
      this.cancelStuck?.();
      this.lost(failure, this.now() - spawnedAtMs);
    });
  }

  private receive(message: FromEngine): void {
    switch (message.type) {
      case 'device-warning':
        this.deviceWarnings.set(message.model, message.reason);
        break;
      case 'refused':
        this.refusedByRuntime.set(message.model, message.reason);
        break;
      case 'ready': {
        const { device, deviceReason, backend, threads } = message;
        this.keepDevice(device, deviceReason);
        this.ready = { device, deviceReason, backend, threads };
        this.models = this.models.filter(({ id }) => !this.refusedByRuntime.has(id));
        if (this.state !== 'draining') {
          this.state = 'ready';
          this.reason = null;
        }
        this.settleStartup?.resolve();
        this.settleStartup = null;
        break;
      }
      case 'drained':
        break; // the worker exits next
      default:
        if (message.type === 'telemetry') this.deviceMemory = message.telemetry.device ?? null;
        this.listener.heard(message);
    }
  }

  /** The worker is gone: its jobs get an answer, and unless we are stopping another one starts. */
  private lost(failure: string, livedMs: number): void {
    this.listener.lost(failure);
    const starting = this.settleStartup;
    this.settleStartup = null;
    starting?.reject(new Error(`the engine can't start: ${failure}`));
    if (this.state === 'draining' || this.state === 'stopped') {
      this.state = 'stopped';
      this.stopped?.();
      return;
    }
    if (starting !== null) {
      this.state = 'stopped';
      this.reason = failure;
      return;
    }
    this.state = 'restarting';
    this.reason = `the engine worker died (${failure}) and is restarting`;
    this.restarts += 1;
    if (livedMs > STABLE_AFTER_MS) this.restartDelayMs = RESTART_DELAY_MS_MIN;
    this.cancelRestart = this.timers(this.restartDelayMs, () => {
      this.cancelRestart = null;
      this.spawn();
    });
    this.restartDelayMs = Math.min(RESTART_DELAY_MS_MAX, this.restartDelayMs * 2);
  }

  /**
   * What CUDA has lost, and memory of a thread that was killed, is lost to the whole process: a worker that follows one with a GPU may find none, or
   * no room. Going on with less than was served before would be a failure that nobody sees; a new process gets the GPU back, or says why not.
   */
  private keepDevice(device: string, deviceReason: string): void {
    if (this.restarts === 0 || this.ready.device === 'cpu') return;
    const refused = this.models.map(({ id }) => this.refusedByRuntime.get(id));
    const fallen = [...this.deviceWarnings].map(([model, reason]) =>
      this.warnedBefore.has(model) ? undefined : reason,
    );
    const moved = device === this.ready.device ? undefined : deviceReason;
    const why = [moved, ...refused, ...fallen].find((reason) => reason !== undefined);
    if (why !== undefined) this.settings.onStuck?.(`${this.ready.device} was lost and does not come back: ${why}`);
  }

  /** A step hangs: its jobs are answered at once, and the worker is ended, if that is possible. */
  private stalled(): void {
    const { worker } = this;
    if (worker === null) return;
    const reason = `no sign of life for ${this.stallMsMax} ms (--engine-stall-ms-max)`;
    if (this.state === 'ready') {
      this.state = 'restarting';
      this.reason = `the engine stalled (${reason})`;
    }
    this.listener.lost(reason);
    worker.terminate();
    this.cancelStuck = this.timers(this.terminateMsMax, () => {
      this.settings.onStuck?.(`a step hangs in native code: ${reason}`);
    });
  }

  /** Lets the worker finish what is in. A second call waits for the first, whose time counts. @param onTimeout what is left is to be given up */
  drain(timeoutMs: number, onTimeout: () => void): Promise<void> {
    this.draining ??= this.drainOnce(timeoutMs, onTimeout);
    return this.draining;
  }

  private async drainOnce(timeoutMs: number, onTimeout: () => void): Promise<void> {
    if (this.state === 'stopped') return;
    this.state = 'draining';
    this.reason = 'the server is shutting down';
    this.cancelRestart?.();
    const { worker } = this;
    if (worker === null) {
      this.state = 'stopped';
      return;
    }
    const exited = new Promise<void>((resolve) => {
      this.stopped = resolve;
    });
    this.send({ type: 'drain' });
    let cancel = this.timers(timeoutMs, () => {
      onTimeout();
      // A step that hangs would keep the thread from hearing of it.
      cancel = this.timers(this.terminateMsMax, () => worker.terminate());
    });
    await exited;
    cancel();
  }
}
