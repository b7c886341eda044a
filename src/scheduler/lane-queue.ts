/**
 * Lanes that wait to be admitted, by job, and the time limits of every job that is in. Waiting jobs take turns, a lane each, so a job
 * of a thousand windows delays a short one by a lane and not by itself. The head is never overtaken by a smaller lane: it would starve.
 */
import type { LaneRequest } from './lane.js';

export interface TimeLimits {
  /** The job leaves when this moment has passed; null: never. */
  readonly deadlineAtMs: number | null;
  /** It also leaves when its first lane has not been admitted by then. */
  readonly startByMs: number;
}

export interface Expired {
  readonly jobId: number;
  readonly limit: 'deadline' | 'start';
}

interface WaitingJob<Request> {
  readonly jobId: number;
  readonly lanes: readonly Request[];
  next: number;
}

export class LaneQueue<Request = LaneRequest> {
  private readonly waiting: WaitingJob<Request>[] = [];
  private readonly timeLimits = new Map<number, TimeLimits>();
  private laneCount = 0;

  get lanes(): number {
    return this.laneCount;
  }

  submit(jobId: number, lanes: readonly Request[], timeLimits: TimeLimits): void {
    if (lanes.length === 0) throw new Error('a job without lanes would never leave the queue');
    this.waiting.push({ jobId, lanes, next: 0 });
    this.laneCount += lanes.length;
    this.timeLimits.set(jobId, timeLimits);
  }

  /** The lane whose turn it is, null when none waits. */
  head(): Request | null {
    const job = this.waiting[0];
    return job?.lanes[job.next] ?? null;
  }

  /** Takes the head: its job goes to the end of the queue with what is left of it. */
  take(): Request {
    const job = this.waiting.shift();
    const lane = job?.lanes[job.next];
    if (job === undefined || lane === undefined) throw new Error('a lane was taken from an empty queue');
    const limits = this.timeLimits.get(job.jobId);
    if (limits !== undefined && job.next === 0)
      this.timeLimits.set(job.jobId, { ...limits, startByMs: Number.POSITIVE_INFINITY });
    job.next += 1;
    this.laneCount -= 1;
    if (job.next < job.lanes.length) this.waiting.push(job);
    return lane;
  }

  /** Removes what still waits of a job, and its limits. Harmless for a job that has left. */
  abort(jobId: number): void {
    const at = this.waiting.findIndex((job) => job.jobId === jobId);
    const job = this.waiting[at];
    if (job !== undefined) {
      this.laneCount -= job.lanes.length - job.next;
      this.waiting.splice(at, 1);
    }
    this.timeLimits.delete(jobId);
  }

  /** The jobs that have run out of time, longest overdue first; the caller aborts them. */
  overdue(nowMs: number): Expired[] {
    const expired: (Expired & { overdueMs: number })[] = [];
    for (const [jobId, { deadlineAtMs, startByMs }] of this.timeLimits) {
      if (deadlineAtMs !== null && deadlineAtMs <= nowMs) {
        expired.push({ jobId, limit: 'deadline', overdueMs: nowMs - deadlineAtMs });
      } else if (startByMs <= nowMs) {
        expired.push({ jobId, limit: 'start', overdueMs: nowMs - startByMs });
      }
    }
    expired.sort((a, b) => b.overdueMs - a.overdueMs || a.jobId - b.jobId);
    return expired.map(({ jobId, limit }) => ({ jobId, limit }));
  }

  /** Forgets a job that was answered. */
  settle(jobId: number): void {
    this.timeLimits.delete(jobId);
  }
}
