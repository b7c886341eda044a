/**
 * Scoring with a model that carries a cache: texts of any length, block by block, each answered as it comes; and sessions, whose cache
 * stays between requests so that a client can append.
 */
import { ServerError } from '../errors.js';
import type { AdaptiveSpan } from '../families/adaptive-span.js';
import type { Expired, TimeLimits } from '../scheduler/scheduler.js';
import { SpanLane, type SpanLimits, SpanScheduler, type StreamState } from '../scheduler/span-scheduler.js';
import type { Job, SpanJob, StageTelemetry } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageMessage, type StageTurn } from './stage.js';

export interface SpanModel {
  readonly id: string;
  readonly bosId: number;
  readonly family: Pick<AdaptiveSpan, 'advance'>;
  /** Sum over layers and heads of the keys a query attends over. */
  readonly keysPerToken: number;
}

export interface SessionLimits {
  readonly sessionsMax: number;
  readonly idleMsMax: number;
}

interface Session {
  /** Null while a request of the session is in work. */
  state: StreamState | null;
  usedAtMs: number;
}

export class SpanStage implements Stage {
  readonly kind = 'span';
  readonly model: string;
  private readonly scheduler: SpanScheduler;
  private readonly counter: StageCounter;
  private readonly sessions = new Map<string, Session>();
  private readonly jobs = new Map<number, { job: SpanJob; timeLimits: TimeLimits; started: boolean }>();

  constructor(
    private readonly served: SpanModel,
    limits: SpanLimits,
    private readonly sessionLimits: SessionLimits,
    private readonly now: () => number,
  ) {
    this.model = served.id;
    this.scheduler = new SpanScheduler(limits);
    this.counter = new StageCounter(served.id, 'score');
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'span') throw new Error(`a stage with spans got a job to ${job.kind}`);
    const state = job.session === null ? null : this.enterSession(job.session.key, job.session.continues);
    job.texts.forEach((ids, index) => {
      const request = { jobId: job.id, index, ids, topCount: job.topLogprobs, spanCap: job.spanCap };
      this.scheduler.submit(new SpanLane(request, this.served.bosId, state, job.session !== null));
    });
    this.jobs.set(job.id, { job, timeLimits, started: false });
    return job.texts.length;
  }

  /** Throws ServerError SESSION_UNKNOWN, SESSION_BUSY or QUEUE_FULL. */
  private enterSession(key: string, continues: boolean): StreamState | null {
    this.expireSessions();
    const session = this.sessions.get(key);
    if (!continues) {
      if (session !== undefined) throw new Error(`session ${key} begins twice`);
      if (this.sessions.size >= this.sessionLimits.sessionsMax) {
        throw new ServerError(
          'QUEUE_FULL',
          `${this.sessions.size} sessions are open (--sessions-max): end one or retry later`,
        );
      }
      this.sessions.set(key, { state: null, usedAtMs: this.now() });
      return null;
    }
    if (session === undefined) {
      const idle = `${this.sessionLimits.idleMsMax} ms`;
      throw new ServerError(
        'SESSION_UNKNOWN',
        `the session is unknown or was idle for more than ${idle}: begin a new one`,
        'session',
      );
    }
    if (session.state === null) {
      throw new ServerError(
        'SESSION_BUSY',
        'another request of this session is in work: wait for its reply',
        'session',
      );
    }
    const { state } = session;
    session.state = null;
    return state;
  }

  private expireSessions(): void {
    for (const [key, { state, usedAtMs }] of this.sessions) {
      if (state === null || this.now() - usedAtMs <= this.sessionLimits.idleMsMax) continue;
      this.scheduler.release(state.slot);
      this.sessions.delete(key);
    }
  }

  abort(jobId: number): void {
    this.scheduler.abort(jobId);
    const session = this.jobs.get(jobId)?.job.session;
    // Half a text is in its cache: nobody could say what the next one would continue.
    if (session) this.sessions.delete(session.key);
    this.jobs.delete(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    this.expireSessions();
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
    const starts = plan.lanes.map(({ done }) => done);
    const results = await this.served.family.advance(plan);
    const ran = now();
    const tokens = results.reduce((sum, { logprobs }) => sum + logprobs.length, 0);
    const ended = new Set(this.scheduler.apply(plan));
    const messages = plan.lanes.map((lane, i): StageMessage => {
      const { jobId, index } = lane.request;
      const result = results[i] as (typeof results)[number];
      if (ended.has(lane)) this.leaveSession(lane);
      const arrays = [result.logprobs, result.topIds, result.topLogprobs, result.spans];
      return {
        jobId,
        message: { type: 'block', jobId, index, start: starts[i] as number, result },
        transfer: arrays.map(({ buffer }) => buffer as ArrayBuffer),
        completesPart: ended.has(lane),
      };
    });
    const computed = plan.lanes.length * plan.blockTokens;
    const { keysPerToken } = this.served;
    this.counter.step(tokens, 0, { keysUseful: tokens * keysPerToken, keysComputed: computed * keysPerToken });
    this.counter.time(ran - planned, planned - startMs + now() - ran);
    const started = plan.lanes.map(({ request }) => request.jobId);
    for (const jobId of started) {
      const entry = this.jobs.get(jobId);
      if (entry !== undefined) entry.started = true;
    }
    return { started, messages };
  }

  private leaveSession({ request, slot, startsAt }: SpanLane): void {
    const key = this.jobs.get(request.jobId)?.job.session?.key;
    const session = key === undefined ? undefined : this.sessions.get(key);
    if (session === undefined) return;
    session.state = { slot, position: startsAt + request.ids.length, lastId: request.ids.at(-1) as number };
    session.usedAtMs = this.now();
  }

  gauges(): StageGauges {
    const { lanesWaiting, lanesRunning, slotsUsed, limits } = this.scheduler;
    return { lanesWaiting, lanesRunning, slotsUsed, slotsTotal: limits.lanesMax, cacheRowsUsed: 0, cacheRowsTotal: 0 };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.counter.take({ haltedAtStep: [], remainderTenths: [], remainderSum: 0 })];
  }
}
