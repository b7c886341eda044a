/**
 * The engine from its client to its loop, over workers that fail, on simulated time: a seed decides jobs, aborts, faults and when the
 * clock jumps. Every request must be answered once and rightly, whatever happened meanwhile, and at the end nothing may be left.
 */
import assert from 'node:assert/strict';
import { EngineClient } from '../../src/engine/client.js';
import type { EngineWorker } from '../../src/engine/keeper.js';
import type { EngineLoop } from '../../src/engine/loop.js';
import type { FromEngine, ScoreWindow, ToEngine } from '../../src/engine/protocol.js';
import { type ErrorCode, ServerError } from '../../src/errors.js';
import type { AdvancePlan, AdvanceResult } from '../../src/scheduler/scheduler.js';
import { scoreLoop } from '../engine/score-loop.js';
import { FakeFamily } from '../fake-family.js';
import { describeModel } from '../fakes.js';
import { replay } from '../halting-oracle.js';
import type { Random } from '../seed.js';
import type { Timeline } from './timeline.js';

export type FaultKind = 'throw' | 'hang' | 'nan' | 'slow' | 'killed' | 'memory' | 'jump';

const LIMITS = { rowsMax: 60, lanesMax: 6, slotsMax: 120, finishRowsMax: 40 };
const MAX_STEPS = 8;
const STEP_MS_MAX = 20;
const SLOW_MS = 300;
const STALL_MS_MAX = 1000;
const QUEUE_WAIT_MS_MAX = 5000;
const QUEUE_LANES_MAX = 60;
/** Restart delay and loading. */
const LOADING_MS = 100;
const BACK_WITHIN_MS = 2000;
const JUMP_MS = 600_000;

interface Plan {
  readonly kind: FaultKind;
  /** Steps of the worker before it; of `killed` and `jump`: milliseconds. */
  readonly after: number;
}

type Outcome = 'OK' | ErrorCode;
export type Tally = Record<string, number>;

class SimulatedWorker implements EngineWorker {
  private readonly inbox: ToEngine[] = [];
  private wake: (() => void) | null = null;
  private dead = false;
  private steps = 0;
  private message: (message: FromEngine) => void = () => {};
  private failed: (error: Error) => void = () => {};
  private readonly exits: (() => void)[] = [];
  readonly loop: EngineLoop;

  constructor(
    private readonly timeline: Timeline,
    private readonly random: Random,
    private readonly fault: Plan | null,
    private readonly hit: (kind: FaultKind) => void,
  ) {
    const family = new FaultyFamily(LIMITS, (kind) => this.pass(kind));
    this.loop = scoreLoop({
      models: [{ id: 'fake', maxSteps: MAX_STEPS, family }],
      limits: LIMITS,
      queueWaitMsMax: QUEUE_WAIT_MS_MAX,
      now: () => timeline.nowMs,
      receive: () => this.inbox.shift() ?? null,
      wait: () =>
        new Promise((resolve) => {
          this.wake = resolve;
        }),
      post: (message) => this.post(message),
    });
    timeline.after(LOADING_MS, () => {
      if (this.dead) return;
      this.post({ type: 'ready', device: 'cpu', deviceReason: '', backend: 'simulated', threads: 1 });
      this.loop.run().then(
        () => this.end(null),
        (error: Error) => this.end(error),
      );
    });
    if (fault?.kind === 'killed') {
      timeline.after(fault.after, () => {
        if (this.dead) return;
        hit('killed');
        this.end(null);
      });
    }
  }

  /** A graph runs: time passes, or what the fault says. */
  private async pass(kind: 'advance' | 'finish'): Promise<void> {
    if (kind === 'advance') this.steps += 1;
    await this.timeline.sleep(this.random.next() * STEP_MS_MAX);
    if (kind !== 'advance' || this.fault === null || this.steps !== this.fault.after) return;
    switch (this.fault.kind) {
      case 'throw':
        this.hit('throw');
        throw new Error('injected failure');
      case 'nan':
        // The families look at what they compute.
        this.hit('nan');
        throw new Error('the model computed a log-probability that is not a number');
      case 'hang':
        this.hit('hang');
        return new Promise(() => {});
      case 'slow':
        this.hit('slow');
        await this.timeline.sleep(SLOW_MS);
        return;
      case 'memory':
        this.hit('memory');
        this.end(new Error('Worker terminated due to reaching memory limit: JS heap out of memory'));
        return new Promise(() => {});
      case 'killed':
      case 'jump':
        return;
      default:
        this.fault.kind satisfies never;
    }
  }

  postMessage(message: ToEngine): void {
    this.timeline.after(0.05, () => {
      this.inbox.push(message);
      this.wake?.();
    });
  }

  /** A dead thread says nothing, but what it said before still arrives. */
  private post(message: FromEngine): void {
    if (!this.dead) this.timeline.after(0.05, () => this.message(message));
  }

  on(event: 'message' | 'error' | 'exit', listener: (argument: never) => void): void {
    if (event === 'message') this.message = listener as typeof this.message;
    else if (event === 'error') this.failed = listener as typeof this.failed;
    else this.exits.push(listener as () => void);
  }

  terminate(): void {
    this.end(null);
  }

  private end(error: Error | null): void {
    if (this.dead) return;
    this.dead = true;
    this.timeline.after(0.1, () => {
      if (error !== null) this.failed(error);
      for (const exit of this.exits) exit();
    });
  }
}

class FaultyFamily extends FakeFamily {
  constructor(
    limits: typeof LIMITS,
    private readonly pass: (kind: 'advance' | 'finish') => Promise<void>,
  ) {
    super(limits);
  }

  override async advance(plan: AdvancePlan): Promise<AdvanceResult> {
    const result = await super.advance(plan);
    await this.pass('advance');
    return result;
  }

  override async finish(plan: Parameters<FakeFamily['finish']>[0]) {
    const results = await super.finish(plan);
    await this.pass('finish');
    return results;
  }
}

interface Request {
  readonly windows: readonly ScoreWindow[];
  readonly submittedAtMs: number;
  readonly deadlineAtMs: number | null;
  outcome: Outcome | null;
}

export class FaultySimulation {
  private readonly requests: Request[] = [];
  private readonly faults: Plan[];
  private readonly client: EngineClient;
  private notReadySinceMs: number | null = null;
  private jumped = false;
  readonly tally: Tally = {};

  constructor(
    private readonly random: Random,
    private readonly timeline: Timeline,
  ) {
    this.faults = Array.from({ length: random.int(0, 3) }, () => {
      const kind = random.pick(['throw', 'hang', 'nan', 'slow', 'killed', 'memory', 'jump'] as const);
      return { kind, after: kind === 'killed' || kind === 'jump' ? random.int(1, 600) : random.int(1, 12) };
    });
    for (const { kind, after } of this.faults.filter((fault) => fault.kind === 'jump')) {
      timeline.after(after, () => {
        this.jumped = true;
        this.count(kind);
        timeline.jump(random.chance(0.7) ? JUMP_MS : -JUMP_MS);
      });
    }
    const ofWorkers = this.faults.filter(({ kind }) => kind !== 'jump');
    // The first worker is not killed before it was ready: then the server does not start, which is another story.
    const [first] = ofWorkers;
    if (first?.kind === 'killed') ofWorkers[0] = { ...first, after: first.after + LOADING_MS };
    this.client = new EngineClient({
      setup: {
        ...{ backend: 'ort-capi', threads: 1, spin: false, limits: LIMITS, cacheRowsMax: 1 },
        span: { lanesMax: 1, blockTokens: 16, sessionsMax: 1, idleMsMax: 1 },
        queueWaitMsMax: QUEUE_WAIT_MS_MAX,
        models: [describeModel({ id: 'fake', maxSteps: MAX_STEPS })],
      },
      queueLanesMax: QUEUE_LANES_MAX,
      queueTokensMax: 100_000,
      stallMsMax: STALL_MS_MAX,
      spawn: () => new SimulatedWorker(timeline, random, ofWorkers.shift() ?? null, (kind) => this.count(kind)),
      now: () => timeline.nowMs,
      timers: (ms, fire) => timeline.after(ms, fire),
    });
  }

  private count(what: string): void {
    this.tally[what] = (this.tally[what] ?? 0) + 1;
  }

  async run(): Promise<Tally> {
    await this.until(() => this.client.info().state === 'ready');
    const count = this.random.int(1, 20);
    for (let i = 0; i < count; i++) {
      this.timeline.after(this.random.int(0, 800), () => this.request());
    }
    await this.until(() => this.requests.length === count && this.requests.every(({ outcome }) => outcome !== null));
    await this.until(() => this.client.info().state === 'ready');
    // What was charged has come back: as much as the queue ever takes is taken.
    const filler = Array.from({ length: QUEUE_LANES_MAX }, () => window(this.random));
    const filled = this.submit(filler, null, new AbortController().signal);
    await this.until(() => filled.outcome !== null);
    assert.notEqual(filled.outcome, 'QUEUE_FULL', 'permits were lost');
    const drained = this.client.drain(10_000);
    let done = false;
    drained.then(() => {
      done = true;
    });
    await this.until(() => done);
    assert.equal(this.client.info().state, 'stopped');
    // What still waits must be messages on their way, no timer of the client.
    await this.settle();
    assert.ok(this.timeline.pending <= 40, `${this.timeline.pending} events are left`);
    return this.tally;
  }

  private request(): void {
    const windows = Array.from({ length: this.random.chance(0.7) ? 1 : this.random.int(2, 8) }, () =>
      window(this.random),
    );
    const deadline = this.random.chance(0.3) ? this.timeline.nowMs + this.random.int(1, 800) : null;
    const abort = new AbortController();
    if (this.random.chance(0.15)) this.timeline.after(this.random.int(0, 300), () => abort.abort());
    this.submit(windows, deadline, abort.signal);
  }

  private submit(windows: readonly ScoreWindow[], deadlineAtMs: number | null, signal: AbortSignal): Request {
    const request: Request = { windows, submittedAtMs: this.timeline.nowMs, deadlineAtMs, outcome: null };
    this.requests.push(request);
    const budget = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 };
    const settle = (outcome: Outcome) => {
      assert.equal(request.outcome, null, 'a request is answered once');
      request.outcome = outcome;
      this.count(outcome);
    };
    this.client.score({ model: 'fake', windows, budget, topLogprobs: 0, deadlineAtMs }, signal).then(
      (outcome) => {
        for (const [i, { ids, scoreFrom }] of windows.entries()) {
          assert.deepEqual(outcome.windows[i]?.depths, replay(ids, budget).depths.slice(scoreFrom), 'as if alone');
        }
        settle('OK');
      },
      (error: unknown) => {
        if (!(error instanceof ServerError)) throw error;
        this.checkFailure(request, error.code, signal);
        settle(error.code);
      },
    );
    return request;
  }

  private checkFailure({ deadlineAtMs }: Request, code: ErrorCode, signal: AbortSignal): void {
    const allowed: ErrorCode[] = ['ENGINE_LOST', 'NOT_READY', 'QUEUE_FULL'];
    if (deadlineAtMs !== null) allowed.push('DEADLINE_EXCEEDED');
    if (signal.aborted) allowed.push('CLIENT_CLOSED');
    assert.ok(allowed.includes(code), `a request failed with ${code}`);
    const lost = ['throw', 'hang', 'nan', 'killed', 'memory'];
    if (code === 'ENGINE_LOST' || code === 'NOT_READY') {
      assert.ok(
        lost.some((kind) => this.tally[kind] !== undefined),
        `${code} without a fault`,
      );
    }
  }

  /** Lets time pass until `is`; the engine may not be away for longer than it should meanwhile. */
  private async until(is: () => boolean): Promise<void> {
    await this.settle();
    while (!is()) {
      assert.ok(this.timeline.step(), 'nothing will happen any more, and something still waits');
      await this.settle();
      this.checkAbsence();
    }
  }

  private checkAbsence(): void {
    const { state } = this.client.info();
    if (state !== 'restarting') this.notReadySinceMs = null;
    else this.notReadySinceMs ??= this.timeline.nowMs;
    if (this.notReadySinceMs === null || this.jumped) return;
    assert.ok(this.timeline.nowMs - this.notReadySinceMs <= BACK_WITHIN_MS, 'back in service in two seconds');
  }

  /** All that follows at once from the last event. */
  private settle(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

function window(random: Random): ScoreWindow {
  const ids = Int32Array.from({ length: random.int(1, 24) }, () => random.int(0, 99));
  return { ids, scoreFrom: random.chance(0.8) ? 0 : random.int(0, ids.length - 1) };
}
