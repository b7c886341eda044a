/**
 * The engine's loop without weights, threads or time: a seed decides jobs, limits, moments of submission, abort, deadline and drain, and
 * how long each step takes. Messages arrive on an injected clock; every rule that must hold at every moment is checked as it happens.
 */
import assert from 'node:assert/strict';
import { TELEMETRY_INTERVAL_MS } from '../../src/engine/loop.js';
import type { EngineTelemetry, FromEngine, ScoreJob, ScoreWindowResult, ToEngine } from '../../src/engine/protocol.js';
import type { AdvancePlan, SchedulerLimits } from '../../src/scheduler/scheduler.js';
import { scoreCounts, scoreLoop } from '../engine/score-loop.js';
import { FakeFamily } from '../fake-family.js';
import { fingerprint, hash01, replay } from '../halting-oracle.js';
import type { Random } from '../seed.js';

interface Timed {
  readonly atMs: number;
  readonly message: ToEngine;
}

interface Model {
  readonly id: string;
  readonly maxSteps: number;
}

export interface Scenario {
  readonly models: readonly Model[];
  readonly limits: SchedulerLimits;
  readonly queueWaitMsMax: number;
  readonly stepMsMax: number;
  /** In the order of their times; the drain is among them. */
  readonly script: readonly Timed[];
}

const LANE_MAX = 24;

export function randomScenario(random: Random): Scenario {
  const models = [
    { id: 'a', maxSteps: 8 },
    { id: 'b', maxSteps: 5 },
  ].slice(0, random.int(1, 2));
  const limits = {
    rowsMax: random.int(LANE_MAX, 100),
    lanesMax: random.int(1, 10),
    slotsMax: random.int(LANE_MAX, 200),
    finishRowsMax: random.int(1, 60),
  };
  const busy = random.chance(0.5);
  const script: Timed[] = [];
  let atMs = 0;
  for (let id = 1; id <= random.int(1, 25); id++) {
    atMs += busy ? random.int(0, 5) : random.int(0, 60);
    const job = randomJob(random, id, models, atMs);
    script.push({ atMs, message: { type: 'submit', job } });
    if (random.chance(0.2)) {
      // Some at once, some when it has long been answered.
      const abortAtMs = atMs + (random.chance(0.2) ? 0 : random.int(0, 150));
      script.push({ atMs: abortAtMs, message: { type: 'abort', jobId: id } });
    }
  }
  // Nothing is submitted after a drain, but aborts still come.
  script.push({ atMs: atMs + (random.chance(0.3) ? 0 : random.int(0, 300)), message: { type: 'drain' } });
  script.sort((a, b) => a.atMs - b.atMs);
  return {
    models,
    limits,
    queueWaitMsMax: random.pick([20, 200, 10_000]),
    stepMsMax: random.pick([1, 10, 40]),
    script,
  };
}

function randomJob(random: Random, id: number, models: readonly Model[], submittedAtMs: number): ScoreJob {
  const model = random.pick(models);
  const maxSteps = random.chance(0.5) ? model.maxSteps : random.int(1, model.maxSteps);
  const windows = Array.from({ length: random.chance(0.7) ? 1 : random.int(1, 8) }, () => {
    const ids = Int32Array.from({ length: random.int(1, LANE_MAX) }, () => random.int(0, 99));
    return { ids, scoreFrom: random.chance(0.7) ? 0 : random.int(0, ids.length - 1) };
  });
  return {
    kind: 'score',
    id,
    model: random.chance(0.02) ? 'unknown' : model.id,
    windows,
    budget: {
      maxSteps,
      minSteps: random.chance(0.7) ? 1 : random.int(1, maxSteps),
      threshold: random.chance(0.7) ? 0.99 : 0.01 + 0.99 * random.next(),
    },
    topLogprobs: random.chance(0.8) ? 0 : random.int(1, 3),
    submittedAtMs,
    deadlineAtMs: random.chance(0.75) ? null : submittedAtMs + random.int(0, 200),
  };
}

interface Submitted {
  readonly job: ScoreJob;
  readonly receivedAtMs: number;
  readonly windows: Map<number, ScoreWindowResult>;
  /** Steps of its model between its arrival and the admission of its first lane: so far, and how many are allowed. */
  stepsWaited: number;
  stepsWaitedMax: number;
  lanesAdmitted: number;
  startedAtMs: number | null;
  end: 'done' | 'failed' | 'aborted' | null;
}

/** How the jobs of a scenario ended, for the caller to see that all ways occur. */
export type Endings = Record<'done' | 'failed' | 'aborted', number>;

export class Simulation {
  private nowMs = 0;
  private turnStartedAtMs = 0;
  private next = 0;
  /** Of all jobs so far, from the first step to the end. */
  private longestComputeMs = 0;
  private drained = false;
  private readonly jobs = new Map<number, Submitted>();
  private readonly families = new Map<string, FakeFamily>();
  private readonly reports: { readonly atMs: number; readonly idle: boolean; readonly telemetry: EngineTelemetry }[] =
    [];

  constructor(
    private readonly scenario: Scenario,
    private readonly random: Random,
  ) {}

  async run(): Promise<Endings> {
    const { models, limits, queueWaitMsMax, script } = this.scenario;
    const watching = (model: string, plan: AdvancePlan) => this.watch(model, plan);
    for (const { id } of models) this.families.set(id, new WatchedFamily(limits, id, watching, () => this.takeTime()));
    const loop = scoreLoop({
      models: models.map((model) => ({ ...model, family: this.families.get(model.id) as FakeFamily })),
      limits,
      queueWaitMsMax,
      now: () => this.nowMs,
      receive: () => this.receive(),
      wait: async () => {
        const upcoming = script[this.next];
        assert.ok(upcoming !== undefined, 'the loop waits, but no message will come');
        this.nowMs = Math.max(this.nowMs, upcoming.atMs);
      },
      post: (message, transfer) => this.posted(message, transfer),
    });
    await loop.run();
    return this.conclude();
  }

  private takeTime(): void {
    this.turnStartedAtMs = this.nowMs;
    this.nowMs += this.random.next() * this.scenario.stepMsMax;
  }

  private receive(): ToEngine | null {
    const upcoming = this.scenario.script[this.next];
    if (upcoming === undefined || upcoming.atMs > this.nowMs) return null;
    this.next += 1;
    const { message } = upcoming;
    if (message.type === 'submit') this.noteSubmit(message.job as ScoreJob);
    if (message.type === 'abort') {
      const submitted = this.jobs.get(message.jobId);
      if (submitted !== undefined) submitted.end ??= 'aborted';
    }
    return message;
  }

  private noteSubmit(job: ScoreJob): void {
    const maxSteps = this.scenario.models.find(({ id }) => id === job.model)?.maxSteps ?? 0;
    const waiting = [...this.jobs.values()].filter(
      (other) => other.end === null && other.job.model === job.model && other.lanesAdmitted < other.job.windows.length,
    );
    // With a deadline a job puts in all its lanes when it is its turn, without one a lane a turn.
    const turnsOf = ({ deadlineAtMs, windows }: ScoreJob) => (deadlineAtMs === null ? 1 : windows.length);
    const ahead = waiting.reduce((sum, other) => sum + turnsOf(other.job), 0);
    for (const other of waiting) if (job.deadlineAtMs !== null) other.stepsWaitedMax += turnsOf(job) * maxSteps;
    this.jobs.set(job.id, {
      job,
      receivedAtMs: this.nowMs,
      windows: new Map(),
      stepsWaited: 0,
      // Each job before it puts in one lane a turn, and what runs is gone after maxSteps.
      stepsWaitedMax: (ahead + 1) * maxSteps,
      lanesAdmitted: 0,
      startedAtMs: null,
      end: null,
    });
  }

  /** Called with every plan before it runs. */
  private watch(model: string, plan: AdvancePlan): void {
    for (const { lane } of plan.lanes) {
      const { job, end } = this.job(lane.request.jobId);
      assert.equal(end, null, `job ${job.id} has left, but its rows still run`);
      assert.equal(job.model, model, 'a job runs on its model');
      assert.ok(job.deadlineAtMs === null || job.deadlineAtMs > this.nowMs, `job ${job.id} runs after its deadline`);
    }
    for (const { request } of plan.begin) {
      const submitted = this.job(request.jobId);
      submitted.lanesAdmitted += 1;
      submitted.startedAtMs ??= this.nowMs;
    }
    for (const submitted of this.jobs.values()) {
      const { job, end, lanesAdmitted, stepsWaitedMax } = submitted;
      if (job.model !== model || end !== null || lanesAdmitted > 0) continue;
      submitted.stepsWaited += 1;
      assert.ok(submitted.stepsWaited <= stepsWaitedMax, `job ${job.id} starves: ${submitted.stepsWaited} steps`);
    }
  }

  private posted(message: FromEngine, transfer: readonly ArrayBuffer[]): void {
    assert.ok(!this.drained, 'drained is the last word');
    switch (message.type) {
      case 'window': {
        const submitted = this.open(message.jobId);
        assert.ok(!submitted.windows.has(message.index), 'a window is answered once');
        submitted.windows.set(message.index, message.result);
        this.checkResult(submitted.job, message.index, message.result);
        const { logprobs, depths, remainders, topIds, topLogprobs } = message.result;
        const buffers = [logprobs, depths, remainders, topIds, topLogprobs].map(({ buffer }) => buffer);
        assert.deepEqual(new Set(transfer), new Set(buffers), 'results are moved, not copied');
        break;
      }
      case 'done': {
        const submitted = this.open(message.jobId);
        const { job, windows } = submitted;
        assert.equal(windows.size, job.windows.length, 'done comes after the last window');
        assert.equal(message.startedAtMs, submitted.startedAtMs, 'started: its first lane was admitted');
        assert.equal(message.finishedAtMs, this.nowMs);
        this.longestComputeMs = Math.max(this.longestComputeMs, message.finishedAtMs - message.startedAtMs);
        assert.ok(job.deadlineAtMs === null || job.deadlineAtMs > this.turnStartedAtMs, 'done in time');
        submitted.end = 'done';
        break;
      }
      case 'failed': {
        const submitted = this.open(message.jobId);
        this.checkFailure(submitted, message.code);
        submitted.end = 'failed';
        break;
      }
      case 'telemetry':
        this.reports.push({
          atMs: this.nowMs,
          idle: message.telemetry.lanesRunning === 0,
          telemetry: message.telemetry,
        });
        break;
      case 'drained':
        this.drained = true;
        break;
      default:
        assert.fail(`the loop posted ${message.type}`);
    }
  }

  private checkResult(job: ScoreJob, index: number, result: ScoreWindowResult): void {
    const { ids, scoreFrom } = job.windows[index] as ScoreJob['windows'][number];
    const alone = replay(ids, job.budget);
    assert.deepEqual(result.depths, alone.depths.slice(scoreFrom));
    assert.deepEqual(result.remainders, alone.remainders.slice(scoreFrom));
    assert.equal(result.positionSteps, alone.positionSteps);
    assert.equal(result.topIds.length, (ids.length - scoreFrom) * job.topLogprobs);
    assert.equal(result.logprobs.length, ids.length - scoreFrom);
    assert.equal(result.logprobs[0], Math.fround(-20 * hash01(fingerprint(ids), scoreFrom)), "another job's result");
  }

  /** Failures happen for a reason, and soon after it: each model's time limits are looked at before each of its turns. */
  private checkFailure({ job, receivedAtMs, lanesAdmitted }: Submitted, code: string): void {
    const lateMsMax = this.scenario.stepMsMax * this.scenario.models.length;
    const passed = (limitAtMs: number) => {
      assert.ok(limitAtMs <= this.nowMs, 'not before its time');
      assert.ok(this.nowMs - Math.max(limitAtMs, receivedAtMs) <= lateMsMax, 'without delay');
    };
    switch (code) {
      case 'UNKNOWN_MODEL':
        assert.equal(job.model, 'unknown');
        break;
      case 'DEADLINE_EXCEEDED': {
        const leftMs = (job.deadlineAtMs ?? Number.POSITIVE_INFINITY) - this.nowMs;
        // One that was not begun is given up when it would be cut off midway, as jobs have gone so far.
        if (lanesAdmitted > 0 || leftMs <= 0) passed(this.nowMs + leftMs);
        else assert.ok(leftMs <= this.longestComputeMs, 'it could have been begun in time');
        break;
      }
      case 'QUEUE_FULL':
        assert.equal(lanesAdmitted, 0, 'a job that has started does not fail for waiting');
        passed(job.submittedAtMs + this.scenario.queueWaitMsMax);
        break;
      default:
        assert.fail(`job ${job.id} failed with ${code}`);
    }
  }

  private conclude(): Endings {
    assert.ok(this.drained, 'a drain is answered');
    const endings: Endings = { done: 0, failed: 0, aborted: 0 };
    for (const { job, end } of this.jobs.values()) {
      assert.ok(end !== null, `job ${job.id} was never answered`);
      endings[end] += 1;
    }
    this.checkReports();
    return endings;
  }

  private checkReports(): void {
    const sum = (of: (telemetry: EngineTelemetry) => number) =>
      this.reports.reduce((total, { telemetry }) => total + of(telemetry), 0);
    for (const [id, { totals, rowsPerStep, haltedAtStep }] of this.families) {
      const model = (telemetry: EngineTelemetry) => {
        const found = scoreCounts(telemetry).find((entry) => entry.model === id);
        return found ?? assert.fail(`no telemetry of model ${id}`);
      };
      for (const field of ['steps', 'activeRows', 'renewedRows', 'keysUseful', 'keysComputed'] as const) {
        assert.equal(
          sum((t) => model(t)[field]),
          totals[field],
          field,
        );
      }
      assert.deepEqual(
        this.reports.flatMap(({ telemetry }) => [...model(telemetry).rowsPerStep]),
        rowsPerStep,
      );
      for (const [step, halted] of haltedAtStep.entries()) {
        assert.equal(
          sum((t) => model(t).haltedAtStep[step] as number),
          halted ?? 0,
          `halted at step ${step}`,
        );
      }
      assert.equal(
        sum((t) => model(t).remainderTenths.reduce((a, b) => a + b, 0)),
        totals.halted,
      );
      assert.ok(Math.abs(sum((t) => model(t).remainderSum) - totals.remainderSum) < 1e-6, 'remainders');
    }
    this.reports.forEach(({ atMs, idle, telemetry: { slotsUsed, slotsTotal } }, i) => {
      assert.ok(slotsUsed >= 0 && slotsUsed <= slotsTotal);
      const since = atMs - (this.reports[i - 1]?.atMs ?? 0);
      assert.ok(idle || since >= TELEMETRY_INTERVAL_MS, `a report ${since} ms after the last one`);
    });
    const last = this.reports.at(-1)?.telemetry;
    if (last === undefined) return;
    assert.deepEqual([last.lanesWaiting, last.lanesRunning, last.slotsUsed], [0, 0, 0], 'nothing is left behind');
  }

  private job(id: number): Submitted {
    return this.jobs.get(id) ?? assert.fail(`no job ${id}`);
  }

  private open(id: number): Submitted {
    const submitted = this.job(id);
    assert.equal(submitted.end, null, `job ${id} was already ${submitted.end}`);
    return submitted;
  }
}

class WatchedFamily extends FakeFamily {
  constructor(
    limits: SchedulerLimits,
    private readonly model: string,
    private readonly watch: (model: string, plan: AdvancePlan) => void,
    takeTime: () => void,
  ) {
    super(limits, takeTime);
  }

  override async advance(plan: AdvancePlan) {
    this.watch(this.model, plan);
    return super.advance(plan);
  }
}
