/**
 * The main thread's end of the engine: starts the worker, admits jobs within the limits, collects results, and restarts a worker that
 * died. It never touches the runtime. Every job leaves by one exit, `end`, whatever ended it; what a job was charged
 * (lanes, tokens) is given back there and only there.
 */
import { writeSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { monotonicMs } from '../clock.js';
import { assertServable, type Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { HandleLedger } from '../runtime/handle-ledger.js';
import { Backlog, type Order } from './backlog.js';
import type {
  Engine,
  EngineInfo,
  EngineState,
  Foreseen,
  GenerateListener,
  GenerateOutcome,
  GenerateRequest,
  ScoreOutcome,
  ScoreRequest,
  SpanListener,
  SpanOutcome,
  SpanRequest,
  TranslateListener,
  TranslateOutcome,
  TranslateRequest,
} from './engine.js';
import { Hearing } from './hearing.js';
import { costOf, type NewJob, workOf } from './job-cost.js';
import type {
  Budget,
  EngineTelemetry,
  FromEngine,
  ScoreWindowResult,
  SentenceResult,
  SequenceResult,
  SpanBlockResult,
  ToEngine,
} from './protocol.js';
import { DepthBook, grantedSteps } from './quality.js';
import { backgroundTimers, realTimers, type Timers } from './timers.js';
import { Watchdog } from './watchdog.js';
import type { WorkerSetup } from './worker.js';

// A worker that dies at once each time is not restarted in a tight loop; one that served for a while is back at once.
const RESTART_DELAY_MS_MIN = 50;
const RESTART_DELAY_MS_MAX = 1_000;
const STABLE_AFTER_MS = 10_000;

/** A thread that does not end within this time after it was told to is inside native code, and nothing can end it. */
const TERMINATE_MS_MAX = 5_000;

/** A token has fewer bytes of English than this: what is foreseen from bytes is less than it will be. */
const BYTES_PER_TOKEN = 5;

/** Log-probabilities of as many rows are computed between two steps at most. */
const FINISH_ROWS_MAX = 512;

/** What the client needs of a worker thread. `exit` comes last, after `error` if there was one. */
export interface EngineWorker {
  postMessage(message: ToEngine): void;
  /** What was posted since the last time, in order, or a single message. */
  on(event: 'message', listener: (messages: FromEngine | readonly FromEngine[]) => void): void;
  on(event: 'error', listener: (error: Error) => void): void;
  on(event: 'exit', listener: () => void): void;
  /** Ends the thread between two of its native calls; `exit` follows. */
  terminate(): unknown;
}

export interface EngineSettings {
  readonly setup: Omit<WorkerSetup, 'handles'>;
  readonly queueLanesMax: number;
  readonly queueTokensMax: number;
  /** Longest time without a sign of life while there is work; then the worker is ended and another one started. */
  readonly stallMsMax?: number;
  readonly terminateMsMax?: number;
  /** Called when only another process can go on: a worker that stalled can't be ended either, or the GPU does not come back. */
  readonly onStuck?: (reason: string) => void;
  /** Tests bring their own worker, clock and timers. */
  readonly spawn?: (setup: WorkerSetup) => EngineWorker;
  readonly now?: () => number;
  readonly timers?: Timers;
}

const STALL_MS_MAX = 30_000;

export function spawnWorker(setup: WorkerSetup): Worker {
  return new Worker(new URL('./thread.js', import.meta.url), { workerData: setup });
}

/** Blocks of a text that the loop may be ahead of whoever reads them: enough that a step never waits for a turn of the event loop. */
const BLOCKS_AHEAD = 8;

interface PendingJob {
  /** A message about the job: a part of its result. */
  readonly part: (message: Extract<FromEngine, { jobId: number }>) => void;
  readonly done: (startedAtMs: number, finishedAtMs: number) => void;
  readonly fail: (error: ServerError) => void;
}

export class EngineClient implements Engine {
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
  private readonly jobs = new Map<number, PendingJob>();
  private lanesCharged = 0;
  private tokensCharged = 0;
  private nextId = 1;
  private served: readonly ModelDescription[];
  private readonly refusedByRuntime = new Map<string, string>();
  private readonly listeners = new Set<(telemetry: EngineTelemetry) => void>();
  private readonly startup: Promise<void>;
  private settleStartup: { resolve: () => void; reject: (error: Error) => void } | null = null;
  private stopped: (() => void) | null = null;
  private draining: Promise<void> | null = null;
  private readonly now: () => number;
  private readonly timers: Timers;
  private readonly watchdog: Watchdog;
  private readonly handles = HandleLedger.memory();
  private readonly backlog: Backlog;
  private readonly depths = new DepthBook();
  /** Requests that are in are not refused for their later parts. */
  private readonly admitted = new WeakSet<AbortSignal>();

  constructor(private readonly settings: EngineSettings) {
    this.now = settings.now ?? monotonicMs;
    this.timers = settings.timers ?? realTimers;
    this.backlog = new Backlog(settings.setup.queueWaitMsMax);
    this.watchdog = new Watchdog(
      settings.stallMsMax ?? STALL_MS_MAX,
      this.now,
      settings.timers ?? backgroundTimers,
      () => this.stalled(),
    );
    this.served = settings.setup.models;
    this.startup = new Promise((resolve, reject) => {
      this.settleStartup = { resolve, reject };
    });
    this.startup.catch(() => {}); // reported by `started`, whoever awaits it
    this.spawn();
  }

  /** Resolves when the first worker is ready; rejects when it can't start. */
  started(): Promise<void> {
    return this.startup;
  }

  info(): EngineInfo {
    return {
      state: this.state,
      reason: this.reason,
      ...this.ready,
      deviceWarnings: [...this.deviceWarnings.values()],
      deviceMemory: this.deviceMemory,
      restarts: this.restarts,
      backlogMs: this.backlog.ms,
    };
  }

  models(): readonly ModelDescription[] {
    return this.served;
  }

  /** Packages that passed their checks but that the runtime could not open. */
  refused(): readonly RefusedModel[] {
    return [...this.refusedByRuntime].map(([id, reason]) => ({ id, reason }));
  }

  onTelemetry(listener: (telemetry: EngineTelemetry) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  async score(request: ScoreRequest, signal: AbortSignal): Promise<ScoreOutcome> {
    const { windows } = request;
    const results: ScoreWindowResult[] = new Array(windows.length);
    const times = await this.submit(
      { ...request, kind: 'score' },
      windows.map(({ ids }) => ids.length),
      signal,
      (message) => {
        if (message.type === 'window') results[message.index] = message.result;
      },
    );
    return { windows: results, ...times };
  }

  async translate(
    request: TranslateRequest,
    signal: AbortSignal,
    listener?: TranslateListener,
  ): Promise<TranslateOutcome> {
    const results: SentenceResult[] = new Array(request.sentences.length);
    const submittedAtMs = this.now();
    const times = await this.submit(
      { ...request, kind: 'translate' },
      lengths(request.sentences),
      signal,
      (message) => {
        if (message.type === 'token') listener?.token(message.index, message.id, message.logprob, message.depth);
        if (message.type !== 'sentence') return;
        results[message.index] = message.result;
        listener?.sentence(message.index, message.result);
      },
    );
    const first = results.reduce(
      (least, { firstTokenAtMs }) => Math.min(least, firstTokenAtMs),
      Number.POSITIVE_INFINITY,
    );
    return { sentences: results, ...times, firstTokenMs: results.length === 0 ? 0 : first - submittedAtMs };
  }

  async scoreStream(request: SpanRequest, signal: AbortSignal, listener?: SpanListener): Promise<SpanOutcome> {
    const blocks: SpanBlockResult[][] = request.texts.map(() => []);
    const job: NewJob = { ...request, kind: 'span', blocksAhead: listener === undefined ? null : BLOCKS_AHEAD };
    // A lane each, whatever its length: it is cut into blocks, and its bytes were counted as a body.
    const charged = request.texts.map(() => 0);
    let position = 0;
    const times = await this.submit(job, charged, signal, (message) => {
      if (message.type !== 'block') return;
      const { jobId, index, start, result } = message;
      position = message.position + result.logprobs.length;
      if (listener === undefined) blocks[index]?.push(result);
      else void Promise.resolve(listener(index, start, result)).then(() => this.send({ type: 'taken', jobId, index }));
    });
    return { texts: blocks.map(joinBlocks), position, ...times };
  }

  endSession(model: string, key: string): Promise<void> {
    return this.ask((jobId) => ({ type: 'end-session', jobId, model, key }));
  }

  async load(model: ModelDescription): Promise<void> {
    if (this.served.some(({ id }) => id === model.id)) throw new Error(`model ${model.id} is served already`);
    await this.ask((jobId) => ({ type: 'open', jobId, model }));
    this.refusedByRuntime.delete(model.id);
    this.served = [...this.served, model];
  }

  async unload(id: string, settled: Promise<void>): Promise<void> {
    const model = this.served.find((one) => one.id === id);
    if (model === undefined) throw new Error(`model ${id} is not served`);
    this.served = this.served.filter((one) => one !== model);
    this.deviceWarnings.delete(id);
    await settled;
    try {
      await this.ask((jobId) => ({ type: 'close', jobId, model: id }));
    } catch (error) {
      // A worker that died holds nothing any more, and the next one opens what is served.
      if (!(error instanceof ServerError) || !['ENGINE_LOST', 'NOT_READY'].includes(error.code)) throw error;
    }
  }

  /** A message that is answered with `done` or `failed` and costs no compute. */
  private async ask(message: (jobId: number) => ToEngine): Promise<void> {
    this.refuseUnlessReady();
    const jobId = this.nextId++;
    return new Promise((resolve, reject) => {
      const leave = () => this.jobs.delete(jobId);
      this.jobs.set(jobId, {
        part: () => {},
        done: () => leave() && resolve(),
        fail: (error) => leave() && reject(error),
      });
      this.send(message(jobId));
    });
  }

  async generate(request: GenerateRequest, signal: AbortSignal, listener?: GenerateListener): Promise<GenerateOutcome> {
    const { prompts, maxNewTokens } = request;
    const streamTokens = listener !== undefined;
    const sequences: SequenceResult[] = new Array(prompts.length);
    const hearing = new Hearing(prompts.length);
    const submittedAtMs = this.now();
    const charged = prompts.map(({ length }) => length + maxNewTokens);
    const times = await this.submit({ ...request, kind: 'generate', streamTokens }, charged, signal, (message) => {
      switch (message.type) {
        case 'prompt':
          listener?.prompt(message.index, message.scores);
          break;
        case 'generated': {
          const { jobId, index, token } = message;
          if (!hearing.hear(index)) break;
          if (listener?.token(index, token) !== true) break;
          hearing.stop(index);
          this.send({ type: 'stop', jobId, index });
          break;
        }
        case 'sequence':
          sequences[message.index] = hearing.cut(message.index, message.result);
          listener?.sequence(message.index, sequences[message.index] as SequenceResult);
          break;
        default: // not of this kind of job
      }
    });
    const first = sequences.reduce(
      (least, { firstTokenAtMs }) => Math.min(least, firstTokenAtMs ?? least),
      Number.POSITIVE_INFINITY,
    );
    return { sequences, ...times, firstTokenMs: Number.isFinite(first) ? first - submittedAtMs : null };
  }

  /** The one way in and the one way out of a job. `sequences`: what it is charged for, the tokens of a lane each. */
  private async submit(
    request: NewJob,
    sequences: readonly number[],
    signal: AbortSignal,
    part: PendingJob['part'],
  ): Promise<{ queueMs: number; computeMs: number }> {
    this.refuseUnlessReady();
    if (signal.aborted) throw closedByClient();
    const lanes = sequences.length;
    const tokens = sequences.reduce((sum, length) => sum + length, 0);
    if (lanes === 0) return { queueMs: 0, computeMs: 0 };
    this.refuseWhenFull(lanes, tokens);
    const order = { ...workOf(request, tokens), tenant: request.tenant ?? '', deadlineAtMs: request.deadlineAtMs };
    if (!this.admitted.has(signal)) this.refuseWhenLate(order);
    this.admitted.add(signal);
    const id = this.nextId++;
    const submittedAtMs = this.now();
    let [rows, lanesLeft] = [0, lanes];
    return new Promise((resolve, reject) => {
      const leave = (rowsTaken: number | null, late = false) => {
        if (!this.jobs.delete(id)) return false;
        this.backlog.leave(id, this.now(), rowsTaken, late);
        this.lanesCharged -= lanes;
        this.tokensCharged -= tokens;
        if (this.jobs.size === 0) this.watchdog.rest();
        signal.removeEventListener('abort', onAbort);
        return true;
      };
      const fail = (error: ServerError) => {
        if (leave(null, error.code === 'DEADLINE_EXCEEDED')) reject(error);
      };
      const done = (startedAtMs: number, finishedAtMs: number) => {
        if (leave(rows)) resolve({ queueMs: startedAtMs - submittedAtMs, computeMs: finishedAtMs - startedAtMs });
      };
      const onAbort = () => {
        this.send({ type: 'abort', jobId: id });
        fail(closedByClient());
      };
      const hear: PendingJob['part'] = (message) => {
        const cost = costOf(message);
        rows += cost.rows;
        if (cost.endsLane) this.backlog.progress(id, --lanesLeft / lanes);
        else if (message.type === 'block') this.backlog.progress(id, Math.max(0, 1 - rows / order.tokens));
        part(message);
      };
      this.jobs.set(id, { part: hear, done, fail });
      this.backlog.enter(id, order, submittedAtMs);
      this.lanesCharged += lanes;
      this.tokensCharged += tokens;
      this.watchdog.watch();
      signal.addEventListener('abort', onAbort, { once: true });
      this.send({ type: 'submit', job: { ...request, id, submittedAtMs } });
    });
  }

  private refuseUnlessReady(): void {
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

  refuseIfLate({ model, kind, bytes, tenant, deadlineAtMs }: Foreseen): void {
    this.refuseUnlessReady();
    this.refuseWhenLate({ model, kind, tokens: bytes / BYTES_PER_TOKEN, budget: null, tenant, deadlineAtMs });
  }

  grantSteps(
    { model, kind, bytes, tenant, deadlineAtMs }: Foreseen,
    budget: Budget,
    { targetMs, floor }: { readonly targetMs: number; readonly floor: number },
  ): number {
    const order = { model, kind, tokens: bytes / BYTES_PER_TOKEN, budget, tenant, deadlineAtMs };
    const { waitMs, doneMs } = this.backlog.expect(order);
    const pressure = { waitMs, aloneMs: doneMs - waitMs, targetMs };
    return grantedSteps(pressure, floor, budget.maxSteps, (cap) => this.depths.meanUnder(model, cap));
  }

  private refuseWhenLate(order: Order): void {
    const refusal = this.backlog.refusal(order, this.now());
    if (refusal === null) return;
    const { predictedMs, allowedMs, retryAfterSeconds } = refusal;
    const message =
      `the request would take ${Math.round(predictedMs)} ms behind what is in, and has ${Math.max(0, Math.round(allowedMs))} ms ` +
      '(its deadline, or --queue-wait-ms-max): retry later, or on another replica';
    throw new ServerError('QUEUE_FULL', message, null, retryAfterSeconds);
  }

  /** A request larger than a whole limit is let in when nothing else is there: it would otherwise be refused for ever. */
  private refuseWhenFull(lanes: number, tokens: number): void {
    const { queueLanesMax, queueTokensMax } = this.settings;
    if (this.lanesCharged > 0 && this.lanesCharged + lanes > queueLanesMax) {
      throw new ServerError(
        'QUEUE_FULL',
        `${this.lanesCharged} sequences are waiting or running (--queue-lanes-max ${queueLanesMax}); retry later`,
        null,
        this.backlog.drainSeconds,
      );
    }
    if (this.tokensCharged > 0 && this.tokensCharged + tokens > queueTokensMax) {
      throw new ServerError(
        'QUEUE_FULL',
        `${this.tokensCharged} tokens are waiting or running (--queue-tokens-max ${queueTokensMax}); retry later`,
        null,
        this.backlog.drainSeconds,
      );
    }
  }

  private send(message: ToEngine): void {
    this.worker?.postMessage(message);
  }

  private spawn(): void {
    const { spawn = spawnWorker, setup } = this.settings;
    const worker = spawn({ ...setup, models: this.served, handles: this.handles });
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
      case 'ready':
        this.keepDevice(message.device, message.deviceReason);
        this.ready = {
          device: message.device,
          deviceReason: message.deviceReason,
          backend: message.backend,
          threads: message.threads,
        };
        this.served = this.served.filter(({ id }) => !this.refusedByRuntime.has(id));
        if (this.state !== 'draining') {
          this.state = 'ready';
          this.reason = null;
        }
        this.settleStartup?.resolve();
        this.settleStartup = null;
        break;
      case 'refused':
        this.refusedByRuntime.set(message.model, message.reason);
        break;
      case 'window':
      case 'token':
      case 'sentence':
      case 'block':
      case 'prompt':
      case 'generated':
      case 'sequence':
        this.jobs.get(message.jobId)?.part(message);
        break;
      case 'done':
        this.jobs.get(message.jobId)?.done(message.startedAtMs, message.finishedAtMs);
        break;
      case 'failed':
        this.jobs.get(message.jobId)?.fail(new ServerError(message.code, message.message, message.param));
        break;
      case 'telemetry':
        this.deviceMemory = message.telemetry.device ?? null;
        this.backlog.observe(message.telemetry);
        this.depths.observe(message.telemetry);
        for (const listener of this.listeners) listener(message.telemetry);
        break;
      case 'drained':
        break; // the worker exits next
      default:
        message satisfies never;
    }
  }

  /** The worker is gone: its jobs get an answer, and unless we are stopping another one starts. */
  private lost(failure: string, livedMs: number): void {
    this.failAll(failure);
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
    const refused = this.served.map(({ id }) => this.refusedByRuntime.get(id));
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
    const reason = `no sign of life for ${this.settings.stallMsMax ?? STALL_MS_MAX} ms (--engine-stall-ms-max)`;
    if (this.state === 'ready') {
      this.state = 'restarting';
      this.reason = `the engine stalled (${reason})`;
    }
    this.failAll(reason);
    worker.terminate();
    this.cancelStuck = this.timers(this.settings.terminateMsMax ?? TERMINATE_MS_MAX, () => {
      this.settings.onStuck?.(`a step hangs in native code: ${reason}`);
    });
  }

  private failAll(failure: string): void {
    for (const job of [...this.jobs.values()]) {
      job.fail(
        new ServerError(
          'ENGINE_LOST',
          `the engine worker died while the request was in flight (${failure}); it restarts, retry`,
        ),
      );
    }
  }

  /** A second call waits for the first, whose time counts. */
  drain(timeoutMs: number): Promise<void> {
    this.draining ??= this.drainOnce(timeoutMs);
    return this.draining;
  }

  private async drainOnce(timeoutMs: number): Promise<void> {
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
      for (const [id, job] of [...this.jobs]) {
        this.send({ type: 'abort', jobId: id });
        job.fail(
          new ServerError(
            'DRAINING',
            `the server shut down before the request finished (--drain-ms-max); send it to another replica`,
          ),
        );
      }
      // A step that hangs would keep the thread from hearing of it.
      cancel = this.timers(this.settings.terminateMsMax ?? TERMINATE_MS_MAX, () => worker.terminate());
    });
    await exited;
    cancel();
  }
}

function lengths(texts: readonly Int32Array[]): number[] {
  return texts.map(({ length }) => length);
}

function joinBlocks(blocks: readonly SpanBlockResult[]): SpanBlockResult {
  const join = <A extends Float32Array | Int32Array>(
    of: (block: SpanBlockResult) => A,
    make: (length: number) => A,
  ) => {
    const joined = make(blocks.reduce((sum, block) => sum + of(block).length, 0));
    let at = 0;
    for (const block of blocks) {
      joined.set(of(block), at);
      at += of(block).length;
    }
    return joined;
  };
  const floats = (of: (block: SpanBlockResult) => Float32Array) => join(of, (length) => new Float32Array(length));
  const ints = (of: (block: SpanBlockResult) => Int32Array) => join(of, (length) => new Int32Array(length));
  return {
    logprobs: floats(({ logprobs }) => logprobs),
    topIds: ints(({ topIds }) => topIds),
    topLogprobs: floats(({ topLogprobs }) => topLogprobs),
    spans: floats(({ spans }) => spans),
  };
}

function closedByClient(): ServerError {
  return new ServerError('CLIENT_CLOSED', 'the client closed the connection');
}

/** The process can't even exit in order: it would wait for the thread. Whoever supervises it starts another. */
export function endProcess(reason: string): void {
  writeSync(process.stderr.fd, `ponder-serve: ${reason}; the process ends\n`);
  process.kill(process.pid, 'SIGKILL');
}

/** Starts the worker and resolves when its models are loaded. Throws Error with one line when the engine can't start. */
export async function startEngine(
  config: Config,
  models: readonly ModelDescription[],
  spawn: (setup: WorkerSetup) => EngineWorker = spawnWorker,
): Promise<EngineClient> {
  assertServable(config, models);
  const client = new EngineClient({
    setup: {
      backend: config.backend,
      threads: config.threads,
      spin: true,
      limits: {
        rowsMax: config.batchRowsMax,
        lanesMax: config.lanesMax,
        slotsMax: config.slotsMax,
        finishRowsMax: FINISH_ROWS_MAX,
      },
      cacheRowsMax: config.cacheRowsMax,
      span: {
        lanesMax: config.spanLanesMax,
        blockTokens: config.spanBlockTokens,
        sessionsMax: config.sessionsMax,
        idleMsMax: config.sessionIdleMsMax,
      },
      device: {
        device: config.device,
        threads: config.threads,
        spin: true,
        rowsMax: config.deviceRowsMax,
        lanesMax: config.deviceLanesMax,
        slotsMax: config.deviceSlotsMax,
        cohorts: config.deviceCohorts,
        stepsMax: config.deviceStepsMax,
        cacheRowsMax: config.deviceCacheRowsMax,
      },
      queueWaitMsMax: config.queueWaitMsMax,
      models,
    },
    queueLanesMax: config.queueLanesMax,
    queueTokensMax: config.queueTokensMax,
    spawn,
    stallMsMax: config.engineStallMsMax,
    onStuck: endProcess,
  });
  await client.started();
  return client;
}
