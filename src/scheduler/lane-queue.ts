/**
 * Lanes that wait to be admitted, by job, and the time limits of every job that is in.
 *
 *   tenants take turns by rows (tenant-turns.ts)
 *     of one tenant: the job that is due first. With a deadline that is the deadline; without one, the time by which it must start.
 *       of one job: its lanes in order. A job without a deadline goes behind those that wait when a lane of it was taken.
 *
 * So a job of a thousand windows delays a short one by a lane and not by itself, and the head is never overtaken by a lane only because
 * that one is smaller: it would starve.
 */
import type { LaneRequest } from './lane.js';
import { TenantTurns } from './tenant-turns.js';

export interface TimeLimits {
  /** The job leaves when this moment has passed; null: never. */
  readonly deadlineAtMs: number | null;
  /** It also leaves when its first lane has not been admitted by then. */
  readonly startByMs: number;
  /** Whose job it is; tenants share alike. */
  readonly tenant?: string;
}

export interface Expired {
  readonly jobId: number;
  readonly limit: 'deadline' | 'start';
}

interface WaitingJob<Request> {
  readonly jobId: number;
  readonly tenant: string;
  readonly lanes: readonly Request[];
  readonly hasDeadline: boolean;
  /** When its next lane is due. */
  dueAtMs: number;
  next: number;
}

export class LaneQueue<Request = LaneRequest> {
  /** By tenant, in the order of their due times; equal ones as they came. */
  private readonly waiting = new Map<string, WaitingJob<Request>[]>();
  private readonly turns = new TenantTurns();
  private readonly timeLimits = new Map<number, TimeLimits>();
  /** Before this none of the limits has passed: the engine asks between any two steps. */
  private quietUntilMs = Number.POSITIVE_INFINITY;
  private laneCount = 0;

  /** @param rowsOf what a lane counts for among tenants; a lane of text its positions */
  constructor(private readonly rowsOf: (lane: Request) => number = positionsOf) {}

  get lanes(): number {
    return this.laneCount;
  }

  submit(jobId: number, lanes: readonly Request[], timeLimits: TimeLimits): void {
    if (lanes.length === 0) throw new Error('a job without lanes would never leave the queue');
    const { deadlineAtMs, startByMs, tenant = '' } = timeLimits;
    const dueAtMs = Math.min(deadlineAtMs ?? Number.POSITIVE_INFINITY, startByMs);
    this.insert({ jobId, tenant, lanes, hasDeadline: deadlineAtMs !== null, dueAtMs, next: 0 });
    this.laneCount += lanes.length;
    this.timeLimits.set(jobId, timeLimits);
    this.quietUntilMs = Math.min(this.quietUntilMs, dueAtMs);
  }

  private insert(job: WaitingJob<Request>): void {
    const jobs = this.waiting.get(job.tenant) ?? [];
    let at = jobs.length;
    while (at > 0 && (jobs[at - 1] as WaitingJob<Request>).dueAtMs > job.dueAtMs) at -= 1;
    jobs.splice(at, 0, job);
    this.waiting.set(job.tenant, jobs);
  }

  private first(): WaitingJob<Request> | null {
    const tenant = this.turns.next(this.waiting.keys());
    return tenant === null ? null : (this.waiting.get(tenant)?.[0] ?? null);
  }

  /** The lane whose turn it is, null when none waits. */
  head(): Request | null {
    const job = this.first();
    return job?.lanes[job.next] ?? null;
  }

  /** Takes the head. */
  take(): Request {
    const job = this.first();
    const lane = job?.lanes[job.next];
    if (job === null || lane === undefined) throw new Error('a lane was taken from an empty queue');
    const limits = this.timeLimits.get(job.jobId);
    if (limits !== undefined && job.next === 0)
      this.timeLimits.set(job.jobId, { ...limits, startByMs: Number.POSITIVE_INFINITY });
    job.next += 1;
    this.laneCount -= 1;
    this.turns.charge(job.tenant, this.rowsOf(lane));
    this.remove(job);
    if (job.next < job.lanes.length) {
      if (!job.hasDeadline) job.dueAtMs = Math.max(job.dueAtMs, this.lastDue(job.tenant));
      this.insert(job);
    }
    return lane;
  }

  /** Of the tenant's jobs without a deadline. */
  private lastDue(tenant: string): number {
    const last = this.waiting.get(tenant)?.findLast(({ hasDeadline }) => !hasDeadline);
    return last?.dueAtMs ?? Number.NEGATIVE_INFINITY;
  }

  private remove(job: WaitingJob<Request>): void {
    const jobs = this.waiting.get(job.tenant) as WaitingJob<Request>[];
    // The head, which is what leaves most often, without moving those behind it.
    if (jobs[0] === job) jobs.shift();
    else jobs.splice(jobs.indexOf(job), 1);
    if (jobs.length === 0) this.waiting.delete(job.tenant);
  }

  /** Removes what still waits of a job, and its limits. Harmless for a job that has left. */
  abort(jobId: number): void {
    for (const jobs of this.waiting.values()) {
      const job = jobs.find((candidate) => candidate.jobId === jobId);
      if (job === undefined) continue;
      this.laneCount -= job.lanes.length - job.next;
      this.remove(job);
      break;
    }
    this.timeLimits.delete(jobId);
  }

  /** The jobs that have run out of time, longest overdue first; the caller aborts them. */
  overdue(nowMs: number): Expired[] {
    if (nowMs < this.quietUntilMs) return [];
    this.quietUntilMs = Number.POSITIVE_INFINITY;
    const expired: (Expired & { overdueMs: number })[] = [];
    for (const [jobId, { deadlineAtMs, startByMs }] of this.timeLimits) {
      this.quietUntilMs = Math.min(this.quietUntilMs, deadlineAtMs ?? Number.POSITIVE_INFINITY, startByMs);
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

function positionsOf(lane: unknown): number {
  return (lane as Partial<LaneRequest>).ids?.length ?? 1;
}
