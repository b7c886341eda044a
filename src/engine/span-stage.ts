/**
 * Scoring with a model that carries a cache: texts of any length, block by block, each answered as it comes; and sessions, whose cache
 * stays between requests so that a client can append.
 */
import type { AdaptiveSpan } from '../families/adaptive-span.js';
import type { SpanDescription } from '../models/description.js';
import type { Expired, TimeLimits } from '../scheduler/scheduler.js';
import { SpanLane, type SpanLimits, type SpanPlan, SpanScheduler } from '../scheduler/span-scheduler.js';
import type { Job, SpanBlockResult, SpanJob, StageTelemetry } from './protocol.js';
import { type SessionLimits, Sessions } from './sessions.js';
import { SpanCounter } from './span-counter.js';
import { reachOf } from './span-keys.js';
import { type Stage, StageCounter, type StageGauges, type StageMessage, type StageTurn } from './stage.js';

export interface SpanModel {
  readonly id: string;
  readonly bosId: number;
  readonly span: SpanDescription;
  readonly family: Pick<AdaptiveSpan, 'advance'>;
}

export class SpanStage implements Stage {
  readonly kind = 'span';
  readonly model: string;
  private readonly scheduler: SpanScheduler;
  private readonly counter: StageCounter;
  private readonly spans: SpanCounter;
  private readonly sessions: Sessions;
  private readonly jobs = new Map<number, { job: SpanJob; timeLimits: TimeLimits; started: boolean }>();

  constructor(
    private readonly served: SpanModel,
    limits: SpanLimits,
    sessionLimits: SessionLimits,
    now: () => number,
  ) {
    this.model = served.id;
    this.scheduler = new SpanScheduler(limits);
    this.sessions = new Sessions(sessionLimits, (slot) => this.scheduler.release(slot), now);
    this.counter = new StageCounter(served.id, 'score');
    this.spans = new SpanCounter(served.span, limits.blockTokens);
  }

  /** Throws ServerError SESSION_UNKNOWN, SESSION_OPEN, SESSION_BUSY or QUEUE_FULL. */
  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'span') throw new Error(`a stage with spans got a job to ${job.kind}`);
    const { session, spanCap, blocksAhead } = job;
    const state = session === null ? null : this.sessions.enter(session.key, session.continues);
    const reach = reachOf(this.served.span, spanCap);
    const keep = session !== null && !session.ends;
    job.texts.forEach((ids, index) => {
      const request = { jobId: job.id, index, ids, topCount: job.topLogprobs, spanCap, reach, blocksAhead };
      this.scheduler.submit(new SpanLane(request, this.served.bosId, state, keep));
    });
    this.jobs.set(job.id, { job, timeLimits, started: false });
    return job.texts.length;
  }

  taken(jobId: number, index: number): void {
    this.scheduler.taken(jobId, index);
  }

  /** Throws ServerError SESSION_UNKNOWN or SESSION_BUSY. */
  endSession(key: string): void {
    this.sessions.end(key);
  }

  expireIdle(): boolean {
    return this.sessions.expire();
  }

  idleUntilMs(): number | null {
    return this.sessions.nextExpiryMs();
  }

  abort(jobId: number): void {
    this.scheduler.abort(jobId);
    const session = this.jobs.get(jobId)?.job.session;
    // Half a text is in its cache: nobody could say what the next one would continue.
    if (session) this.sessions.forget(session.key);
    this.jobs.delete(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    const expired: Expired[] = [];
    for (const [jobId, { timeLimits, started }] of this.jobs) {
      if (timeLimits.deadlineAtMs !== null && timeLimits.deadlineAtMs <= nowMs)
        expired.push({ jobId, limit: 'deadline' });
      else if (!started && timeLimits.startByMs <= nowMs) expired.push({ jobId, limit: 'start' });
    }
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.jobs.delete(jobId);
  }

  async turn(now: () => number): Promise<StageTurn | null> {
    const startMs = now();
    const plan = this.scheduler.schedule();
    if (plan === null) return null;
    const planned = now();
    const results = await this.served.family.advance(plan);
    const ran = now();
    const told = results.map((result, i) => toldOf(plan.lanes[i] as SpanLane, result));
    const { tokens, ...keys } = this.spans.step(plan, told);
    const messages = this.settleBlocks(plan, told);
    this.counter.step(tokens, 0, keys);
    this.counter.time(ran - planned, planned - startMs + now() - ran);
    const started = plan.lanes.map(({ request }) => request.jobId);
    for (const jobId of started) {
      const entry = this.jobs.get(jobId);
      if (entry !== undefined) entry.started = true;
    }
    return { started, messages };
  }

  private settleBlocks(plan: SpanPlan, results: readonly SpanBlockResult[]): StageMessage[] {
    const starts = plan.lanes.map(({ done, repeated }) => Math.max(0, done - repeated));
    const ended = new Set(this.scheduler.apply(plan));
    return plan.lanes.map((lane, i): StageMessage => {
      const { jobId, index } = lane.request;
      const result = results[i] as SpanBlockResult;
      const start = starts[i] as number;
      if (ended.has(lane)) this.leaveSession(lane);
      const arrays = [result.logprobs, result.topIds, result.topLogprobs, result.spans];
      return {
        jobId,
        message: { type: 'block', jobId, index, start, position: lane.startsAt + lane.repeated + start, result },
        transfer: arrays.map(({ buffer }) => buffer as ArrayBuffer),
        completesPart: ended.has(lane),
      };
    });
  }

  private leaveSession(lane: SpanLane): void {
    const session = this.jobs.get(lane.request.jobId)?.job.session;
    if (!session) return;
    if (session.ends) this.sessions.forget(session.key);
    else this.sessions.leave(session.key, lane.leaves(this.scheduler.limits.blockTokens));
  }

  gauges(): StageGauges {
    const { lanesWaiting, lanesRunning, slotsUsed, limits } = this.scheduler;
    return { lanesWaiting, lanesRunning, slotsUsed, slotsTotal: limits.lanesMax, cacheRowsUsed: 0, cacheRowsTotal: 0 };
  }

  telemetry(): readonly StageTelemetry[] {
    const { slotsUsed, limits } = this.scheduler;
    const span = this.spans.take({ open: this.sessions.open, slotsUsed, slotsTotal: limits.lanesMax });
    return [{ ...this.counter.take(), span }];
  }
}

/** The result of a lane's next block without the tokens that were told of before; they all lie in its first one. */
function toldOf({ done, repeated }: SpanLane, result: SpanBlockResult): SpanBlockResult {
  if (done > 0 || repeated === 0) return result;
  const { logprobs, topIds, topLogprobs, spans } = result;
  const tops = repeated * (topIds.length / logprobs.length);
  return {
    logprobs: logprobs.slice(repeated),
    topIds: topIds.slice(tops),
    topLogprobs: topLogprobs.slice(tops),
    spans: spans.slice(repeated),
  };
}
