/**
 * Scoring on a device. Lanes form cohorts that take turns: while the device runs the launch of one, the host reads and plans the other, so
 * neither waits for the other as long as a step takes longer than its plan.
 *
 *   device   | cohort 0: step 4 | cohort 1: step 9 | cohort 0: step 5 | ...
 *   host              | read 1, plan 1 | read 0, plan 0 | ...
 */
import type { Launching } from '../families/launching.js';
import { HaltingCounts } from '../scheduler/halting-counts.js';
import { HaltingHistory } from '../scheduler/halting-history.js';
import { type Expired, LaneQueue, type TimeLimits } from '../scheduler/lane-queue.js';
import { type ResidentLimits, ResidentScheduler } from '../scheduler/resident-scheduler.js';
import { LaunchCohort } from './launch-cohort.js';
import type { Job, ScoreWindowResult, StageTelemetry } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageMessage, type StageTurn } from './stage.js';

export interface ResidentScoreModel {
  readonly id: string;
  readonly maxSteps: number;
  /** One a cohort. */
  readonly families: readonly Launching<ScoreWindowResult>[];
}

export class ResidentScoreStage implements Stage {
  readonly kind = 'score';
  readonly model: string;
  private readonly queue = new LaneQueue();
  private readonly cohorts: readonly LaunchCohort<ScoreWindowResult>[];
  private readonly history: HaltingHistory;
  private readonly counter: StageCounter;
  private readonly halting: HaltingCounts;
  private next = 0;

  constructor(
    { id, maxSteps, families }: ResidentScoreModel,
    private readonly limits: ResidentLimits,
  ) {
    this.model = id;
    this.history = new HaltingHistory(maxSteps);
    this.halting = new HaltingCounts(maxSteps);
    this.counter = new StageCounter(id, 'score');
    this.cohorts = families.map((family) => {
      return new LaunchCohort(new ResidentScheduler(limits, this.queue, this.history), family, this.counter);
    });
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'score') throw new Error(`a scoring stage got a job to ${job.kind}`);
    const { id, windows, topLogprobs, budget } = job;
    const lanes = windows.map(({ ids, scoreFrom }, index) => {
      return { jobId: id, index, ids, scoreFrom, topCount: topLogprobs, budget };
    });
    this.cohorts[0]?.scheduler.check(lanes);
    this.queue.submit(id, lanes, timeLimits);
    return lanes.length;
  }

  abort(jobId: number): void {
    this.queue.abort(jobId);
    for (const cohort of this.cohorts) cohort.abort(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.queue.overdue(nowMs);
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.queue.settle(jobId);
  }

  /** One cohort's turn: what its launch gave is read, and its next launch enqueued. */
  async turn(now: () => number): Promise<StageTurn | null> {
    for (let tried = 0; tried < this.cohorts.length; tried++) {
      const cohort = this.cohorts[this.next] as LaunchCohort<ScoreWindowResult>;
      this.next = (this.next + 1) % this.cohorts.length;
      const messages: StageMessage[] = [];
      const started = cohort.turn(now, ({ request }, result) => {
        messages.push(this.messageOf(request.jobId, request.index, result));
      });
      if (started !== null) return { started, messages };
    }
    return null;
  }

  private messageOf(jobId: number, index: number, result: ScoreWindowResult): StageMessage {
    this.history.add(result.depths);
    this.halting.addAll(result.depths, result.remainders);
    // Not transferred: the results of a launch share a buffer, which is copied once for all of them.
    return { jobId, message: { type: 'window', jobId, index, result }, transfer: [], completesPart: true };
  }

  gauges(): StageGauges {
    const sum = (of: 'lanesRunning' | 'slotsUsed') =>
      this.cohorts.reduce((total, { scheduler }) => total + scheduler[of], 0);
    return {
      lanesWaiting: this.queue.lanes,
      lanesRunning: sum('lanesRunning'),
      slotsUsed: sum('slotsUsed'),
      slotsTotal: this.limits.slotsMax * this.cohorts.length,
      cacheRowsUsed: 0,
      cacheRowsTotal: 0,
    };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.counter.take(this.halting.take())];
  }
}
