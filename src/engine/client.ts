/**
 * The main thread's end of the engine: turns requests into jobs, lets them in by the door, and collects their results. It never touches the
 * runtime. Every job leaves by one exit, whatever ended it.
 */
import { monotonicMs } from '../clock.js';
import { ServerError } from '../errors.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { Door } from './door.js';
import type {
  Engine,
  EngineInfo,
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
import { type KeeperSettings, WorkerKeeper } from './keeper.js';
import type {
  EngineTelemetry,
  FromEngine,
  ScoreWindowResult,
  SentenceResult,
  SequenceResult,
  SpanBlockResult,
  ToEngine,
} from './protocol.js';
import { realTimers } from './timers.js';

export interface EngineSettings extends KeeperSettings {
  readonly queueLanesMax: number;
  readonly queueTokensMax: number;
  readonly now?: () => number;
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
  private readonly keeper: WorkerKeeper;
  private readonly door: Door;
  private readonly jobs = new Map<number, PendingJob>();
  private nextId = 1;
  private readonly listeners = new Set<(telemetry: EngineTelemetry) => void>();
  private readonly now: () => number;

  constructor(settings: EngineSettings) {
    const { now = monotonicMs, timers = realTimers, queueLanesMax, queueTokensMax, setup } = settings;
    this.now = now;
    this.door = new Door({ queueLanesMax, queueTokensMax, queueWaitMsMax: setup.queueWaitMsMax }, now);
    const listener = { heard: this.receive.bind(this), lost: this.failAll.bind(this) };
    this.keeper = new WorkerKeeper(settings, listener, now, timers);
  }

  /** Resolves when the first worker is ready; rejects when it can't start. */
  started(): Promise<void> {
    return this.keeper.started();
  }

  info(): EngineInfo {
    return { ...this.keeper.info(), backlogMs: this.door.backlogMs };
  }

  models(): readonly ModelDescription[] {
    return this.keeper.models;
  }

  /** Packages that passed their checks but that the runtime could not open. */
  refused(): readonly RefusedModel[] {
    return this.keeper.refused();
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
      else
        void Promise.resolve(listener(index, start, result)).then(() =>
          this.keeper.send({ type: 'taken', jobId, index }),
        );
    });
    return { texts: blocks.map(joinBlocks), position, ...times };
  }

  endSession(model: string, key: string): Promise<void> {
    return this.ask((jobId) => ({ type: 'end-session', jobId, model, key }));
  }

  async load(model: ModelDescription): Promise<void> {
    if (this.models().some(({ id }) => id === model.id)) throw new Error(`model ${model.id} is served already`);
    await this.ask((jobId) => ({ type: 'open', jobId, model }));
    this.keeper.opened(model);
  }

  async unload(id: string, settled: Promise<void>): Promise<void> {
    const model = this.models().find((one) => one.id === id);
    if (model === undefined) throw new Error(`model ${id} is not served`);
    this.keeper.hide(model);
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
    this.keeper.refuseUnlessReady();
    const jobId = this.nextId++;
    return new Promise((resolve, reject) => {
      const leave = () => this.jobs.delete(jobId);
      this.jobs.set(jobId, {
        part: () => {},
        done: () => leave() && resolve(),
        fail: (error) => leave() && reject(error),
      });
      this.keeper.send(message(jobId));
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
          this.keeper.send({ type: 'stop', jobId, index });
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
    this.keeper.refuseUnlessReady();
    if (signal.aborted) throw closedByClient();
    const lanes = sequences.length;
    const tokens = sequences.reduce((sum, length) => sum + length, 0);
    if (lanes === 0) return { queueMs: 0, computeMs: 0 };
    const order = { ...workOf(request, tokens), tenant: request.tenant ?? '', deadlineAtMs: request.deadlineAtMs };
    const stay = this.door.enter(order, lanes, tokens, signal);
    const id = this.nextId++;
    const submittedAtMs = this.now();
    let [rows, lanesLeft] = [0, lanes];
    return new Promise((resolve, reject) => {
      const leave = (rowsTaken: number | null, late = false) => {
        if (!this.jobs.delete(id)) return false;
        stay.leave(rowsTaken, late);
        if (this.jobs.size === 0) this.keeper.rest();
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
        this.keeper.send({ type: 'abort', jobId: id });
        fail(closedByClient());
      };
      const hear: PendingJob['part'] = (message) => {
        const cost = costOf(message);
        rows += cost.rows;
        if (cost.endsLane) stay.progress(--lanesLeft / lanes);
        else if (message.type === 'block') stay.progress(Math.max(0, 1 - rows / order.tokens));
        part(message);
      };
      this.jobs.set(id, { part: hear, done, fail });
      this.keeper.watch();
      signal.addEventListener('abort', onAbort, { once: true });
      this.keeper.send({ type: 'submit', job: { ...request, id, submittedAtMs } });
    });
  }

  refuseIfLate(foreseen: Foreseen): void {
    this.keeper.refuseUnlessReady();
    this.door.refuseIfLate(foreseen);
  }

  grantSteps(...asked: Parameters<Engine['grantSteps']>): number {
    return this.door.grantSteps(...asked);
  }

  private receive(message: FromEngine): void {
    switch (message.type) {
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
        this.door.observe(message.telemetry);
        for (const listener of this.listeners) listener(message.telemetry);
        break;
      default: // not of a job
    }
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

  drain(timeoutMs: number): Promise<void> {
    return this.keeper.drain(timeoutMs, () => {
      const why = 'the server shut down before the request finished (--drain-ms-max); send it to another replica';
      for (const [id, job] of [...this.jobs]) {
        this.keeper.send({ type: 'abort', jobId: id });
        job.fail(new ServerError('DRAINING', why));
      }
    });
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
