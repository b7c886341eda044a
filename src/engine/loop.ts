/**
 * The engine's loop: schedule -> run -> apply -> settle, one plan of one stage a turn; the stage that has used the least time is next.
 * It owns the jobs and nothing else: which rows run is a scheduler's decision, how they run a family's; a stage joins the two.
 *
 * Messages are taken between turns, so that a job submitted or aborted now is seen before the next step. Nothing here knows of
 * threads, ports or clocks: `worker.ts` wires them in, tests wire in their own.
 */
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { DeviceMemory } from '../runtime/device.js';
import { FairShare } from '../scheduler/fair-share.js';
import type { DeviceTelemetry, EngineTelemetry, FromEngine, Job, StageTelemetry, ToEngine } from './protocol.js';
import { NOTHING_YET, type Stage, type StageGauges, type StageTurn } from './stage.js';

/** A report at most this often, milliseconds: often enough for a scrape, rare enough to cost nothing. */
export const TELEMETRY_INTERVAL_MS = 100;
/** The memory of a GPU is asked for at most this often, milliseconds: the driver takes longer to tell than a step takes. */
export const DEVICE_MEMORY_INTERVAL_MS = 1000;

export interface ModelOpener {
  /** The stages of one more model. Rejects when it can't be served. */
  readonly open: (model: ModelDescription) => Promise<readonly Stage[]>;
  /** Releases what the stages of a model hold. */
  readonly close: (model: string) => void;
}

/** The GPU, as far as reports tell of it. */
export interface ReportedDevice {
  readonly name: string;
  readonly memory: () => DeviceMemory;
  /** Whether a stage runs there. */
  readonly runs: (stage: Stage) => boolean;
}

export interface LoopDeps {
  /** Those that are there from the start. */
  readonly stages: readonly Stage[];
  /** How models come and go; absent where they don't. */
  readonly opener?: ModelOpener;
  /** Absent: the CPU. */
  readonly device?: ReportedDevice;
  readonly queueWaitMsMax: number;
  readonly now: () => number;
  /** The next message, or null when none is there. */
  readonly receive: () => ToEngine | null;
  /** Resolves when a message may be there, or at `untilMs`; called only when there is nothing to do. */
  readonly wait: (untilMs: number | null) => Promise<void>;
  readonly post: (message: FromEngine, transfer: ArrayBuffer[]) => void;
}

/** Weight of one more job in what jobs of a stage take, once they have been started. */
const LEARNING_RATE = 1 / 16;

interface JobState {
  readonly stage: Stage;
  /** It may wait for its first step until then. */
  readonly queuedUntilMs: number;
  partsLeft: number;
  startedAtMs: number | null;
}

export class EngineLoop {
  private readonly jobs = new Map<number, JobState>();
  /** Mean milliseconds from a job's first step to its end. */
  private readonly computeMs = new Map<Stage, number>();
  private readonly share: FairShare;
  private readonly stages: Stage[];
  /** Models to open, between two turns. */
  private readonly opening: { readonly jobId: number; readonly model: ModelDescription }[] = [];
  /** Models that take no new jobs, with the message that their end answers. */
  private readonly closing = new Map<string, number>();
  private draining = false;
  private reportedAtMs = 0;
  /** With a GPU there is its memory to tell of before anything runs. */
  private unreported: boolean;
  private memory: (DeviceMemory & { readonly atMs: number }) | null = null;

  constructor(private readonly deps: LoopDeps) {
    this.stages = [...deps.stages];
    this.share = new FairShare(this.stages.length);
    this.unreported = deps.device !== undefined;
  }

  /** Runs until a drain has emptied the engine. Rejects when a graph fails: what the pools then hold is unknown. */
  async run(): Promise<void> {
    for (;;) {
      // Here too: an engine whose packages were all refused must still hear of a drain.
      this.takeMessages();
      await this.openModels();
      this.closeModels();
      for (const stage of this.stages) {
        this.expire(stage);
        if (stage.expireIdle?.()) this.unreported = true;
      }
      const worked = await this.turn();
      this.report(!worked);
      if (worked) continue;
      if (this.draining && this.jobs.size === 0) {
        this.deps.post({ type: 'drained' }, []);
        return;
      }
      await this.deps.wait(this.idleUntilMs());
    }
  }

  private idleUntilMs(): number | null {
    const times = this.stages.flatMap((stage) => stage.idleUntilMs?.() ?? []);
    return times.length === 0 ? null : Math.min(...times);
  }

  /** Runs one plan of the first stage that has one; false: none has, and nothing is under way. */
  private async turn(): Promise<boolean> {
    const { now } = this.deps;
    let underWay = false;
    for (const i of this.share.order()) {
      const startMs = now();
      const turn = await (this.stages[i] as Stage).turn(now);
      if (turn === null) {
        this.share.rest(i);
        continue;
      }
      if (turn === NOTHING_YET) {
        underWay = true;
        continue;
      }
      this.share.charge(i, now() - startMs);
      this.settle(turn, startMs);
      return true;
    }
    return underWay;
  }

  private takeMessages(): void {
    for (let message = this.deps.receive(); message !== null; message = this.deps.receive()) {
      switch (message.type) {
        case 'submit':
          this.submit(message.job);
          break;
        case 'abort':
          this.jobs.get(message.jobId)?.stage.abort(message.jobId);
          this.jobs.delete(message.jobId);
          this.unreported = true;
          break;
        case 'stop':
          this.jobs.get(message.jobId)?.stage.stop?.(message.jobId, message.index);
          break;
        case 'taken':
          this.jobs.get(message.jobId)?.stage.taken?.(message.jobId, message.index);
          break;
        case 'end-session':
          this.endSession(message);
          break;
        case 'open':
          this.opening.push(message);
          break;
        case 'close':
          this.closing.set(message.model, message.jobId);
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
    const stage = this.stages.find(({ model, kind }) => model === job.model && kind === job.kind);
    if (stage === undefined || this.closing.has(job.model)) {
      const message = `no model ${job.model} that can ${job.kind} is served: GET /v1/models lists those that are`;
      this.deps.post({ type: 'failed', jobId: job.id, code: 'UNKNOWN_MODEL', message }, []);
      return;
    }
    const queuedUntilMs = job.submittedAtMs + this.deps.queueWaitMsMax;
    const { deadlineAtMs, tenant = '' } = job;
    const startByMs = Math.min(queuedUntilMs, this.latestStart(stage, deadlineAtMs));
    this.unreported = true;
    try {
      const partsLeft = stage.submit(job, { deadlineAtMs, startByMs, tenant });
      this.jobs.set(job.id, { stage, queuedUntilMs, partsLeft, startedAtMs: null });
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      this.fail(job.id, error);
    }
  }

  /**
   * Until when a job must have been started to be done in time. Without it, under overload most jobs would be started just before their
   * deadlines and cut off midway, and the engine would work for nobody. One that has less time than usual from the start gets its chance.
   */
  private latestStart(stage: Stage, deadlineAtMs: number | null): number {
    const latest = (deadlineAtMs ?? Number.POSITIVE_INFINITY) - (this.computeMs.get(stage) ?? 0);
    return latest > this.deps.now() ? latest : Number.POSITIVE_INFINITY;
  }

  private endSession({ jobId, model, key }: Extract<ToEngine, { type: 'end-session' }>): void {
    const stage = this.stages.find((one) => one.model === model && one.endSession !== undefined);
    this.unreported = true;
    try {
      if (stage === undefined) throw new ServerError('UNKNOWN_MODEL', `no model ${model} that has sessions is served`);
      stage.endSession?.(key);
      this.done(jobId);
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      this.fail(jobId, error);
    }
  }

  /** Reading weights takes its time, and what is in waits meanwhile; nothing of it is lost. */
  private async openModels(): Promise<void> {
    for (const { jobId, model } of this.opening.splice(0)) {
      try {
        for (const stage of (await this.deps.opener?.open(model)) ?? []) {
          this.stages.push(stage);
          this.share.add();
        }
        this.done(jobId);
      } catch (error) {
        this.fail(jobId, new ServerError('INVALID_REQUEST', (error as Error).message));
      }
      this.unreported = true;
    }
  }

  private closeModels(): void {
    for (const [model, jobId] of this.closing) {
      if ([...this.jobs.values()].some(({ stage }) => stage.model === model)) continue;
      for (let i = this.stages.length - 1; i >= 0; i--) {
        if (this.stages[i]?.model !== model) continue;
        this.computeMs.delete(this.stages[i] as Stage);
        this.stages.splice(i, 1);
        this.share.remove(i);
      }
      this.deps.opener?.close(model);
      this.closing.delete(model);
      this.done(jobId);
      this.unreported = true;
    }
  }

  private done(jobId: number): void {
    const nowMs = this.deps.now();
    this.deps.post({ type: 'done', jobId, startedAtMs: nowMs, finishedAtMs: nowMs }, []);
  }

  private fail(jobId: number, { code, message, param }: ServerError): void {
    this.deps.post({ type: 'failed', jobId, code, message, param }, []);
  }

  private expire(stage: Stage): void {
    const nowMs = this.deps.now();
    for (const { jobId, limit } of stage.expire(nowMs)) {
      const queuedUntilMs = this.jobs.get(jobId)?.queuedUntilMs ?? nowMs;
      this.jobs.delete(jobId);
      this.unreported = true;
      if (limit === 'deadline' || nowMs < queuedUntilMs) {
        const what = limit === 'deadline' ? 'passed before the request finished' : 'was too near to begin the request';
        const message = `the deadline ${what}; ask for less text or raise deadline_ms`;
        this.deps.post({ type: 'failed', jobId, code: 'DEADLINE_EXCEEDED', message }, []);
      } else {
        const message = `the request waited ${this.deps.queueWaitMsMax} ms without being started (--queue-wait-ms-max); retry later`;
        this.deps.post({ type: 'failed', jobId, code: 'QUEUE_FULL', message }, []);
      }
    }
  }

  private settle({ started, messages }: StageTurn, startMs: number): void {
    this.unreported = true;
    for (const jobId of started) {
      const job = this.jobs.get(jobId);
      if (job !== undefined) job.startedAtMs ??= startMs;
    }
    for (const { jobId, message, transfer, completesPart } of messages) {
      const job = this.jobs.get(jobId);
      if (job === undefined) continue;
      this.deps.post(message, transfer);
      if (!completesPart) continue;
      job.partsLeft -= 1;
      if (job.partsLeft > 0) continue;
      const finishedAtMs = this.deps.now();
      const startedAtMs = job.startedAtMs ?? finishedAtMs;
      const usual = this.computeMs.get(job.stage) ?? finishedAtMs - startedAtMs;
      this.computeMs.set(job.stage, usual + LEARNING_RATE * (finishedAtMs - startedAtMs - usual));
      this.deps.post({ type: 'done', jobId, startedAtMs, finishedAtMs }, []);
      job.stage.settle(jobId);
      this.jobs.delete(jobId);
    }
  }

  /** Sends what happened since the last report: when idle at once, else at most every TELEMETRY_INTERVAL_MS. */
  private report(idle: boolean): void {
    const now = this.deps.now();
    if (!this.unreported || (!idle && now - this.reportedAtMs < TELEMETRY_INTERVAL_MS)) return;
    const { stages } = this;
    const gauges = stages.map((stage) => stage.gauges());
    const sum = (of: keyof StageGauges) => gauges.reduce((total, gauge) => total + gauge[of], 0);
    const reports = stages.map((stage) => stage.telemetry());
    const device = this.deviceReport(reports, now);
    const telemetry: EngineTelemetry = {
      stages: reports.flat(),
      ...(device === null ? {} : { device }),
      lanesWaiting: sum('lanesWaiting'),
      lanesRunning: sum('lanesRunning'),
      slotsUsed: sum('slotsUsed'),
      slotsTotal: sum('slotsTotal'),
      cacheRowsUsed: sum('cacheRowsUsed'),
      cacheRowsTotal: sum('cacheRowsTotal'),
    };
    this.deps.post({ type: 'telemetry', telemetry }, []);
    this.reportedAtMs = now;
    this.unreported = false;
  }

  /** @param reports of each stage */
  private deviceReport(reports: readonly (readonly StageTelemetry[])[], nowMs: number): DeviceTelemetry | null {
    const { device } = this.deps;
    if (device === undefined) return null;
    if (this.memory === null || nowMs - this.memory.atMs >= DEVICE_MEMORY_INTERVAL_MS)
      this.memory = { ...device.memory(), atMs: nowMs };
    const onDevice = reports.filter((_, i) => device.runs(this.stages[i] as Stage)).flat();
    const computeSeconds = onDevice.reduce((sum, report) => sum + report.computeSeconds, 0);
    // What runs on streams beside each other takes its time for itself; the device is busy once.
    const busySeconds = Math.min(computeSeconds, (nowMs - this.reportedAtMs) / 1000);
    const { usedBytes, totalBytes } = this.memory;
    return { name: device.name, usedBytes, totalBytes, busySeconds };
  }
}
