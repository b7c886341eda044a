/**
 * Decides which rows run next: continuous batching across depth. Pure and synchronous; the caller passes the time in, runs what
 * the plan says and hands the halting flags back. One scheduler serves one model.
 *
 *   submit ──> waiting (by job) ──admit──> running ──all positions halted──> finishing ──> Finished
 *                    └────────────── abort, deadline: leave at once, slots free ──────┘
 *
 * Every running lane advances in every step, whatever its depth, because the weights are the same at every step. A lane is
 * admitted when its positions fit under `rowsMax` beside the rows that still run; `lane-queue.ts` says whose turn it is.
 */
import { HaltingCounts } from './halting-counts.js';
import { haltingRule } from './halting-rule.js';
import { Lane, type LaneRequest } from './lane.js';
import { type Expired, LaneQueue, type TimeLimits } from './lane-queue.js';
import { SlotPool } from './slot-pool.js';

export type { Expired, TimeLimits } from './lane-queue.js';

export interface SchedulerLimits {
  /** Rows computed in full in one step. */
  readonly rowsMax: number;
  /** Lanes running at once. */
  readonly lanesMax: number;
  /** Positions held at once, halted ones included. */
  readonly slotsMax: number;
  /** Rows whose log-probabilities are computed at once. */
  readonly finishRowsMax: number;
}

export interface LaneStep {
  readonly lane: Lane;
  /** The step to run, from 1. */
  readonly step: number;
  readonly isLast: boolean;
  /** Before the request's min_steps: nothing halts. */
  readonly isHeld: boolean;
}

export interface AdvancePlan {
  readonly kind: 'advance';
  /** Lanes admitted now, whose states are to be written before the step; they are in `lanes` too. */
  readonly begin: readonly Lane[];
  readonly lanes: readonly LaneStep[];
  readonly activeRows: number;
  readonly renewedRows: number;
}

export interface FinishPlan {
  readonly kind: 'finish';
  readonly lanes: readonly Lane[];
}

export type StepPlan = AdvancePlan | FinishPlan;

/** One flag and one remainder per active row, lane after lane in the plan's order, positions ascending. */
export interface AdvanceResult {
  readonly halted: Uint8Array;
  readonly remainders: Float32Array;
}

export interface StackTraits {
  /** Positions see those before them only. */
  readonly causal: boolean;
  /**
   * Rows that a lane's result takes, one a position, and that outlive the lane: an encoder's memory. Taken at admission, so that a lane
   * never ends with nowhere to put its result; given back by whoever reads the memory, or here when the lane is aborted.
   */
  readonly memory: SlotPool | null;
}

export class Scheduler {
  private readonly queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  private running: Lane[] = [];
  private finishing: Lane[] = [];
  private readonly slots: SlotPool;
  /** Filled by `apply`, emptied by whoever reports it. */
  private readonly halting: HaltingCounts;

  constructor(
    readonly limits: SchedulerLimits,
    maxSteps: number,
    private readonly stack: StackTraits = { causal: true, memory: null },
  ) {
    this.slots = new SlotPool(limits.slotsMax);
    this.halting = new HaltingCounts(maxSteps);
  }

  get lanesWaiting(): number {
    return this.queue.lanes;
  }
  get lanesRunning(): number {
    return this.running.length + this.finishing.length;
  }
  get slotsUsed(): number {
    return this.slots.capacity - this.slots.available;
  }
  get idle(): boolean {
    return this.queue.lanes === 0 && this.running.length === 0 && this.finishing.length === 0;
  }

  /** Queues a job's lanes. A lane longer than the limits could never be admitted: the caller refuses it first. */
  submit(jobId: number, lanes: readonly LaneRequest[], timeLimits: TimeLimits): void {
    for (const lane of lanes) {
      if (lane.ids.length === 0) throw new Error('a lane without positions has no rows to run');
      if (lane.ids.length > Math.min(this.limits.rowsMax, this.limits.slotsMax)) {
        throw new Error(`a lane of ${lane.ids.length} positions exceeds rowsMax or slotsMax`);
      }
    }
    this.queue.submit(jobId, lanes, timeLimits);
  }

  /** Removes a job wherever it is; its rows are not in the next step. Harmless for a job that has already left. */
  abort(jobId: number): void {
    this.queue.abort(jobId);
    const stays = (lane: Lane) => {
      if (lane.request.jobId !== jobId) return true;
      this.slots.give(lane.slots);
      this.stack.memory?.give(lane.memoryRows);
      return false;
    };
    this.running = this.running.filter(stays);
    this.finishing = this.finishing.filter(stays);
  }

  /** Aborts the jobs that have run out of time and returns them, longest overdue first. */
  expire(nowMs: number): Expired[] {
    const expired = this.queue.overdue(nowMs);
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  /** Forgets a job that was answered. */
  settle(jobId: number): void {
    this.queue.settle(jobId);
  }

  /** Chooses the rows of the next step; null when there is nothing to do. Lanes that are done are finished before others advance. */
  schedule(): StepPlan | null {
    if (this.finishing.length > 0) return { kind: 'finish', lanes: this.nextToFinish() };
    const begin = this.admit();
    if (this.running.length === 0) return null;
    let activeRows = 0;
    let renewedRows = 0;
    const lanes = this.running.map((lane) => {
      activeRows += lane.activeCount;
      renewedRows += lane.renewedCount;
      const step = lane.steps + 1;
      return { lane, step, ...haltingRule(step, lane.request.budget) };
    });
    return { kind: 'advance', begin, lanes, activeRows, renewedRows };
  }

  private nextToFinish(): Lane[] {
    const lanes: Lane[] = [];
    let rows = 0;
    for (const lane of this.finishing) {
      rows += lane.length - lane.request.scoreFrom;
      if (lanes.length > 0 && rows > this.limits.finishRowsMax) break;
      lanes.push(lane);
    }
    return lanes;
  }

  private admit(): Lane[] {
    const admitted: Lane[] = [];
    let rows = this.running.reduce((sum, lane) => sum + lane.activeCount, 0);
    while (this.running.length < this.limits.lanesMax) {
      const request = this.queue.head();
      if (request === null) break;
      const length = request.ids.length;
      if (rows + length > this.limits.rowsMax || length > this.slots.available) break;
      const { memory } = this.stack;
      if (memory !== null && length > memory.available) break;
      const lane = new Lane(this.queue.take());
      lane.slots = this.slots.take(length);
      if (memory !== null) lane.memoryRows = memory.take(length);
      rows += length;
      this.running.push(lane);
      admitted.push(lane);
    }
    return admitted;
  }

  /** Applies one step's halting flags. */
  applyAdvance(plan: AdvancePlan, result: AdvanceResult): void {
    let row = 0;
    for (const { lane, step } of plan.lanes) {
      // Aborted between schedule and apply: its rows are skipped, its slots are already free.
      row = this.advanceLane(lane, step, result, row);
    }
    const done = this.running.filter((lane) => lane.activeCount === 0);
    if (done.length === 0) return;
    this.running = this.running.filter((lane) => lane.activeCount > 0);
    this.finishing.push(...done);
  }

  private advanceLane(lane: Lane, step: number, result: AdvanceResult, firstRow: number): number {
    const count = lane.activeCount;
    let kept = 0;
    let renewed = 0;
    for (let i = 0; i < count; i++) {
      const position = lane.active[i] as number;
      if (result.halted[firstRow + i] === 0) {
        lane.active[kept++] = position;
        continue;
      }
      const remainder = result.remainders[firstRow + i] as number;
      lane.depths[position] = step;
      lane.remainders[position] = remainder;
      lane.renewed[renewed++] = position;
      this.halting.add(step, remainder);
    }
    // In a causal stack only positions up to the last active one are ever looked at again.
    const lastActive = kept > 0 ? (lane.active[kept - 1] as number) : -1;
    const lastSeen = this.stack.causal || kept === 0 ? lastActive : lane.length;
    while (renewed > 0 && (lane.renewed[renewed - 1] as number) > lastSeen) renewed -= 1;
    lane.steps = step;
    lane.positionSteps += count;
    lane.activeCount = kept;
    lane.renewedCount = renewed;
    return firstRow + count;
  }

  /** The lanes of a finish plan have been read: their slots are free. */
  applyFinish(plan: FinishPlan): void {
    const read = new Set(plan.lanes);
    for (const lane of this.finishing) if (read.has(lane)) this.slots.give(lane.slots);
    this.finishing = this.finishing.filter((lane) => !read.has(lane));
  }

  takeHalting(): HaltingCounts {
    return this.halting.take();
  }
}
