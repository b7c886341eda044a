/** Scoring: a job's windows are lanes of one scheduler; a lane that is done is answered at once. */
import type { Family } from '../families/universal-transformer.js';
import { type Expired, Scheduler, type SchedulerLimits, type TimeLimits } from '../scheduler/scheduler.js';
import type { Job, StageTelemetry } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageTurn } from './stage.js';

export interface ScoreModel {
  readonly id: string;
  readonly maxSteps: number;
  readonly family: Family;
}

export class ScoreStage implements Stage {
  readonly kind = 'score';
  readonly model: string;
  private readonly scheduler: Scheduler;
  private readonly counter: StageCounter;
  private readonly family: Family;

  constructor({ id, maxSteps, family }: ScoreModel, limits: SchedulerLimits) {
    this.model = id;
    this.family = family;
    this.scheduler = new Scheduler(limits, maxSteps);
    this.counter = new StageCounter(id, 'score');
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'score') throw new Error(`a scoring stage got a job to ${job.kind}`);
    const { id, windows, topLogprobs, budget } = job;
    const lanes = windows.map(({ ids, scoreFrom }, index) => {
      return { jobId: id, index, ids, scoreFrom, topCount: topLogprobs, budget };
    });
    this.scheduler.submit(id, lanes, timeLimits);
    return lanes.length;
  }

  abort(jobId: number): void {
    this.scheduler.abort(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    return this.scheduler.expire(nowMs);
  }

  settle(jobId: number): void {
    this.scheduler.settle(jobId);
  }

  async turn(now: () => number): Promise<StageTurn | null> {
    const { scheduler, family, counter } = this;
    const startMs = now();
    const plan = scheduler.schedule();
    if (plan === null) return null;
    const planned = now();
    switch (plan.kind) {
      case 'advance': {
        const result = await family.advance(plan);
        const ran = now();
        scheduler.applyAdvance(plan, result);
        counter.step(plan.activeRows, plan.renewedRows, family);
        counter.time(ran - planned, planned - startMs + now() - ran);
        return { started: plan.begin.map(({ request }) => request.jobId), messages: [] };
      }
      case 'finish': {
        const results = await family.finish(plan);
        const ran = now();
        scheduler.applyFinish(plan);
        counter.time(ran - planned, planned - startMs + now() - ran);
        const messages = results.map((result, i) => {
          const { jobId, index } = (plan.lanes[i] as (typeof plan.lanes)[number]).request;
          const arrays = [result.logprobs, result.depths, result.remainders, result.topIds, result.topLogprobs];
          return {
            jobId,
            message: { type: 'window', jobId, index, result } as const,
            transfer: arrays.map(({ buffer }) => buffer as ArrayBuffer),
            completesPart: true,
          };
        });
        return { started: [], messages };
      }
      default:
        return plan satisfies never;
    }
  }

  gauges(): StageGauges {
    const { lanesWaiting, lanesRunning, slotsUsed, limits } = this.scheduler;
    return { lanesWaiting, lanesRunning, slotsUsed, slotsTotal: limits.slotsMax, cacheRowsUsed: 0, cacheRowsTotal: 0 };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.counter.take(this.scheduler.takeHalting())];
  }
}
