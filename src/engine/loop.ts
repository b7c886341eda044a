/**
 * The engine's loop: schedule -> run -> apply -> settle, one step of one model a turn, models in rotation. It owns the jobs and
 * nothing else: which rows run is the scheduler's decision, how they run the family's.
 *
 * Messages are taken between turns, so that a job submitted or aborted now is seen before the next step. Nothing here knows of
 * threads, ports or clocks: `worker.ts` wires them in, tests wire in their own.
 */
import type { Family } from '../families/universal-transformer.js';
import type { FinishPlan } from '../scheduler/scheduler.js';
import { Scheduler, type SchedulerLimits, type StepPlan } from '../scheduler/scheduler.js';
import type { EngineTelemetry, FromEngine, Job, ModelTelemetry, ScoreWindowResult, ToEngine } from './protocol.js';

/** A report at most this often, milliseconds: often enough for a scrape, rare enough to cost nothing. */
export const TELEMETRY_INTERVAL_MS = 100;

export interface LoopModel {
  readonly id: string;
  readonly maxSteps: number;
  readonly family: Family;
}

export interface LoopDeps {
  readonly models: readonly LoopModel[];
  readonly limits: SchedulerLimits;
  readonly queueWaitMsMax: number;
  readonly now: () => number;
  /** The next message, or null when none is there. */
  readonly receive: () => ToEngine | null;
  /** Resolves when a message may be there; called only when there is nothing to do. */
  readonly wait: () => Promise<void>;
  readonly post: (message: FromEngine, transfer: ArrayBuffer[]) => void;
}

interface Served {
  readonly model: LoopModel;
  readonly scheduler: Scheduler;
  counts: Counts;
}

interface JobState {
  readonly served: Served;
  lanesLeft: number;
  startedAtMs: number | null;
}

type Counts = {
  -readonly [K in Exclude<
    keyof ModelTelemetry,
    'model' | 'haltedAtStep' | 'remainderTenths' | 'remainderSum'
  >]: ModelTelemetry[K] extends number ? number : number[];
};

export class EngineLoop {
  private readonly served: Served[];
  private readonly jobs = new Map<number, JobState>();
  private draining = false;
  private reportedAtMs = 0;
  private unreported = false;

  constructor(private readonly deps: LoopDeps) {
    this.served = deps.models.map((model) => ({
      model,
      scheduler: new Scheduler(deps.limits, model.maxSteps),
      counts: emptyCounts(),
    }));
  }

  /** Runs until a drain has emptied the engine. Rejects when a graph fails: what the pools then hold is unknown. */
  async run(): Promise<void> {
    for (;;) {
      // Here too: an engine whose packages were all refused must still hear of a drain.
      this.takeMessages();
      let worked = false;
      for (const served of this.served) {
        this.expire(served);
        const plan = served.scheduler.schedule();
        if (plan === null) continue;
        worked = true;
        await this.turn(served, plan);
        this.report(false);
        this.takeMessages();
      }
      if (worked) continue;
      this.report(true);
      if (this.draining && this.jobs.size === 0) {
        this.deps.post({ type: 'drained' }, []);
        return;
      }
      await this.deps.wait();
    }
  }

  private takeMessages(): void {
    for (let message = this.deps.receive(); message !== null; message = this.deps.receive()) {
      switch (message.type) {
        case 'submit':
          this.submit(message.job);
          break;
        case 'abort':
          this.jobs.get(message.jobId)?.served.scheduler.abort(message.jobId);
          this.jobs.delete(message.jobId);
          this.unreported = true;
          break;
        case 'drain':
          this.draining = true;
          break;
        default:
          message satisfies never;
      }
    }
  }

  private submit(job: Job): void {
    const served = this.served.find(({ model }) => model.id === job.model);
    if (served === undefined) {
      this.deps.post(
        { type: 'failed', jobId: job.id, code: 'UNKNOWN_MODEL', message: `no model ${job.model} is served` },
        [],
      );
      return;
    }
    this.jobs.set(job.id, { served, lanesLeft: job.windows.length, startedAtMs: null });
    served.scheduler.submit(
      job.id,
      job.windows.map(({ ids, scoreFrom }, index) => ({
        jobId: job.id,
        index,
        ids,
        scoreFrom,
        topCount: job.topLogprobs,
        budget: job.budget,
      })),
      { deadlineAtMs: job.deadlineAtMs, startByMs: job.submittedAtMs + this.deps.queueWaitMsMax },
    );
    this.unreported = true;
  }

  private expire(served: Served): void {
    for (const { jobId, limit } of served.scheduler.expire(this.deps.now())) {
      this.jobs.delete(jobId);
      this.unreported = true;
      if (limit === 'deadline') {
        const message = 'the deadline passed before the request finished; ask for less text or raise deadline_ms';
        this.deps.post({ type: 'failed', jobId, code: 'DEADLINE_EXCEEDED', message }, []);
      } else {
        const message = `the request waited ${this.deps.queueWaitMsMax} ms without being started (--queue-wait-ms-max); retry later`;
        this.deps.post({ type: 'failed', jobId, code: 'QUEUE_FULL', message }, []);
      }
    }
  }

  private async turn(served: Served, plan: StepPlan): Promise<void> {
    const { scheduler, counts, model } = served;
    const start = this.deps.now();
    this.unreported = true;
    switch (plan.kind) {
      case 'advance': {
        for (const { request } of plan.begin) {
          const job = this.jobs.get(request.jobId);
          if (job !== undefined) job.startedAtMs ??= start;
        }
        const result = await model.family.advance(plan);
        const ran = this.deps.now();
        scheduler.applyAdvance(plan, result);
        counts.steps += 1;
        counts.activeRows += plan.activeRows;
        counts.renewedRows += plan.renewedRows;
        counts.rowsPerStep.push(plan.activeRows);
        counts.keysUseful += model.family.keysUseful;
        counts.keysComputed += model.family.keysComputed;
        counts.computeSeconds += (ran - start) / 1000;
        counts.hostSeconds += (this.deps.now() - ran) / 1000;
        break;
      }
      case 'finish': {
        const results = await model.family.finish(plan);
        const ran = this.deps.now();
        scheduler.applyFinish(plan);
        this.settle(plan, results);
        counts.computeSeconds += (ran - start) / 1000;
        counts.hostSeconds += (this.deps.now() - ran) / 1000;
        break;
      }
      default:
        plan satisfies never;
    }
  }

  private settle(plan: FinishPlan, results: readonly ScoreWindowResult[]): void {
    plan.lanes.forEach(({ request }, i) => {
      const job = this.jobs.get(request.jobId);
      const result = results[i];
      if (job === undefined || result === undefined) return;
      const buffers = [result.logprobs, result.depths, result.remainders, result.topIds, result.topLogprobs];
      this.deps.post(
        { type: 'window', jobId: request.jobId, index: request.index, result },
        buffers.map((array) => array.buffer as ArrayBuffer),
      );
      job.lanesLeft -= 1;
      if (job.lanesLeft > 0) return;
      const finishedAtMs = this.deps.now();
      this.deps.post(
        { type: 'done', jobId: request.jobId, startedAtMs: job.startedAtMs ?? finishedAtMs, finishedAtMs },
        [],
      );
      job.served.scheduler.settle(request.jobId);
      this.jobs.delete(request.jobId);
    });
  }

  /** Sends what happened since the last report: when idle at once, else at most every TELEMETRY_INTERVAL_MS. */
  private report(idle: boolean): void {
    const now = this.deps.now();
    if (!this.unreported || (!idle && now - this.reportedAtMs < TELEMETRY_INTERVAL_MS)) return;
    const sum = (of: (scheduler: Scheduler) => number) =>
      this.served.reduce((total, { scheduler }) => total + of(scheduler), 0);
    const telemetry: EngineTelemetry = {
      models: this.served.map((served) => {
        const { atStep, remainderTenths, remainderSum } = served.scheduler.takeHalting();
        const { counts } = served;
        served.counts = emptyCounts();
        return { model: served.model.id, ...counts, haltedAtStep: atStep, remainderTenths, remainderSum };
      }),
      lanesWaiting: sum((scheduler) => scheduler.lanesWaiting),
      lanesRunning: sum((scheduler) => scheduler.lanesRunning),
      slotsUsed: sum((scheduler) => scheduler.slotsUsed),
      slotsTotal: sum((scheduler) => scheduler.limits.slotsMax),
    };
    this.deps.post({ type: 'telemetry', telemetry }, []);
    this.reportedAtMs = now;
    this.unreported = false;
  }
}

function emptyCounts(): Counts {
  return {
    steps: 0,
    computeSeconds: 0,
    hostSeconds: 0,
    activeRows: 0,
    renewedRows: 0,
    keysUseful: 0,
    keysComputed: 0,
    rowsPerStep: [],
  };
}
