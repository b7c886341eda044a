/**
 * The scheduler of a stack whose rows stay on the device: there halting is applied and the table of running rows compacted, and what comes
 * back of a step is how many rows of each lane run on. So nothing here is done a row at a time. Pure and synchronous, as `scheduler.ts` is.
 *
 *   queue ──admit──> running ──no row runs on──> finishing ──read in the next launch──> left
 *
 * One launch reads the lanes that ended in the launch before, begins those admitted, and runs `steps` steps. A lane's numbers and rows are free
 * as soon as the launch that reads them is planned: the device works in order, so what begins is written after what ended was read.
 */
import type { LaneRequest } from './lane.js';
import type { LaneQueue } from './lane-queue.js';
import { RangePool } from './range-pool.js';

export interface ResidentLimits {
  /** Rows computed in full in one step. */
  readonly rowsMax: number;
  readonly lanesMax: number;
  /** Positions held at once, halted ones included. */
  readonly slotsMax: number;
  /** Positions whose results are read in one launch. */
  readonly finishRowsMax: number;
  /** Up to so many rows a step costs the same, so that rows which halt within a launch of several steps waste nothing. */
  readonly flatRows: number;
  /** Steps of one launch at most. */
  readonly stepsMax: number;
  /** And at least, whatever ends within them: where a step takes less time than the host between two launches. 1 by default. */
  readonly stepsMin?: number;
}

const NO_ROWS = new Int32Array(0);

/** A sequence on the device: rows [base, base + length) of the pools, and a number by which the device counts its rows. */
export class ResidentLane {
  readonly length: number;
  /** Steps done. */
  steps = 0;
  activeCount: number;
  /** Rows computed in full so far: the lane's cost. */
  positionSteps = 0;
  /** Rows of the memory pool that the lane's result goes to; empty for a stack that leaves none. */
  memoryRows: Int32Array = NO_ROWS;
  /** Its rows are dropped, but they are in the table until the next step has left them out. */
  aborted = false;

  constructor(
    readonly request: LaneRequest,
    readonly id: number,
    readonly base: number,
  ) {
    this.length = request.ids.length;
    this.activeCount = this.length;
  }
}

export interface ResidentPlan {
  /** Lanes that ended: their results are read before anything else. */
  readonly finish: readonly ResidentLane[];
  /** Lanes whose rows are written behind the running ones. */
  readonly begin: readonly ResidentLane[];
  /** Running rows before `begin`. */
  readonly rowsBefore: number;
  readonly activeRows: number;
  readonly renewedRows: number;
  /** Steps to run; 0: only results are read. */
  readonly steps: number;
}

/** What one step of a launch left: rows that run on, rows to renew, and the running rows by lane number. */
export interface StepProgress {
  readonly activeRows: number;
  readonly renewedRows: number;
  readonly rowsOfLane: Int32Array;
}

/** Chances that a running position halts at a step, learnt from what has halted. */
export interface HaltingForecast {
  /** Probability that a position which runs before step `step` halts in it. */
  hazard(step: number): number;
}

/** Rows [first, first + count) of the table of running rows. */
export interface RowRange {
  readonly first: number;
  readonly count: number;
}

export interface MemoryRows {
  readonly available: number;
  take(count: number): Int32Array;
  give(rows: Int32Array): void;
}

/** Lanes may end unseen within a launch of several steps as long as fewer than this are expected to. */
const LANES_ENDING_UNSEEN = 0.1;

export class ResidentScheduler {
  private running: ResidentLane[] = [];
  private finishing: ResidentLane[] = [];
  private readonly slots: RangePool;
  private readonly laneIds: number[];
  private activeRows = 0;
  private renewedRows = 0;

  constructor(
    readonly limits: ResidentLimits,
    private readonly queue: LaneQueue,
    private readonly forecast: HaltingForecast,
    private readonly memory: MemoryRows | null = null,
  ) {
    this.slots = new RangePool(limits.slotsMax);
    this.laneIds = Array.from({ length: limits.lanesMax }, (_, i) => limits.lanesMax - 1 - i);
  }

  get lanesRunning(): number {
    return this.running.length + this.finishing.length;
  }
  get slotsUsed(): number {
    return this.slots.rowsUsed;
  }

  /** Throws when a lane could never be admitted: the caller refuses it first. */
  check(lanes: readonly LaneRequest[]): void {
    const longest = Math.min(this.limits.rowsMax, this.limits.slotsMax);
    for (const { ids } of lanes) {
      if (ids.length === 0) throw new Error('a lane without positions has no rows to run');
      if (ids.length > longest) throw new Error(`a lane of ${ids.length} positions exceeds rowsMax or slotsMax`);
    }
  }

  /** Removes a job's lanes; call when no launch is under way. Returns where their running rows lie in the table: the device must drop them. */
  abort(jobId: number): RowRange[] {
    const dropped: RowRange[] = [];
    let first = 0;
    // The device keeps rows in the order in which lanes were admitted.
    for (const lane of this.running) {
      if (lane.request.jobId === jobId && !lane.aborted) {
        lane.aborted = true;
        this.memory?.give(lane.memoryRows);
        dropped.push({ first, count: lane.activeCount });
      }
      first += lane.activeCount;
    }
    this.finishing = this.finishing.filter((lane) => {
      if (lane.request.jobId !== jobId) return true;
      this.memory?.give(lane.memoryRows);
      this.free(lane);
      return false;
    });
    return dropped;
  }

  /** What to launch next; null when there is nothing to do. */
  schedule(): ResidentPlan | null {
    const finish = this.nextToFinish();
    // The device copies what it reads before it writes what begins, so their rows can be taken at once.
    for (const lane of finish) this.free(lane);
    const rowsBefore = this.activeRows;
    const begin = this.admit();
    this.activeRows += begin.reduce((sum, { length }) => sum + length, 0);
    const steps = this.activeRows === 0 ? 0 : this.stepsOfLaunch();
    if (steps === 0 && finish.length === 0) return null;
    return { finish, begin, rowsBefore, activeRows: this.activeRows, renewedRows: this.renewedRows, steps };
  }

  private nextToFinish(): ResidentLane[] {
    let rows = 0;
    let count = 0;
    for (const lane of this.finishing) {
      rows += lane.length - lane.request.scoreFrom;
      if (count > 0 && rows > this.limits.finishRowsMax) break;
      count += 1;
    }
    return this.finishing.splice(0, count);
  }

  private admit(): ResidentLane[] {
    const admitted: ResidentLane[] = [];
    let rows = this.activeRows;
    for (let request = this.queue.head(); request !== null; request = this.queue.head()) {
      const length = request.ids.length;
      if (rows + length > this.limits.rowsMax || this.laneIds.length === 0) break;
      if (this.memory !== null && length > this.memory.available) break;
      const base = this.slots.take(length);
      if (base === null) break;
      const lane = new ResidentLane(this.queue.take(), this.laneIds.pop() as number, base);
      if (this.memory !== null) lane.memoryRows = this.memory.take(length);
      rows += length;
      admitted.push(lane);
    }
    this.running.push(...admitted);
    return admitted;
  }

  private stepsOfLaunch(): number {
    return Math.max(this.limits.stepsMin ?? 1, this.stepsWithoutEnds());
  }

  /**
   * One step while rows that halt make the next one cheaper or a lane waits; else as many as no lane is likely to end in, so that the host is asked
   * less often. A lane of n rows ends in a step with the n-th power of a position's chance to halt in it.
   */
  private stepsWithoutEnds(): number {
    if (this.activeRows > this.limits.flatRows || this.queue.lanes > 0) return 1;
    let ending = 0;
    for (let steps = 1; steps < this.limits.stepsMax; steps++) {
      for (const lane of this.running) {
        if (lane.aborted) continue;
        const step = lane.steps + steps;
        const { maxSteps, minSteps } = lane.request.budget;
        if (step >= maxSteps) return steps;
        if (step >= minSteps) ending += this.forecast.hazard(step) ** lane.activeCount;
      }
      if (ending > LANES_ENDING_UNSEEN) return steps;
    }
    return this.limits.stepsMax;
  }

  /** Applies a launch: the progress of each of its steps, in order. */
  apply(plan: ResidentPlan, progress: readonly StepProgress[]): void {
    for (const { rowsOfLane, activeRows, renewedRows } of progress) {
      for (const lane of this.running) {
        if (lane.activeCount === 0) continue;
        lane.positionSteps += lane.activeCount;
        lane.steps += 1;
        lane.activeCount = rowsOfLane[lane.id] as number;
      }
      this.activeRows = activeRows;
      this.renewedRows = renewedRows;
    }
    if (plan.steps === 0) return;
    const ended = this.running.filter(({ activeCount }) => activeCount === 0);
    this.running = this.running.filter(({ activeCount }) => activeCount > 0);
    for (const lane of ended) {
      if (lane.aborted) this.free(lane);
      else this.finishing.push(lane);
    }
  }

  private free(lane: ResidentLane): void {
    this.slots.give(lane.base, lane.length);
    this.laneIds.push(lane.id);
  }
}
