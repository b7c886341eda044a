/** What serves one kind of job of one model in the engine's loop: schedulers and a family, behind one turn at a time. */
import type { HaltingCounts } from '../scheduler/halting-counts.js';
import type { Expired, TimeLimits } from '../scheduler/scheduler.js';
import type { FromEngine, Job, StageName, StageTelemetry } from './protocol.js';

/** Something to tell the main thread, and how much of the job it completes. */
export interface StageMessage {
  readonly jobId: number;
  readonly message: FromEngine;
  readonly transfer: ArrayBuffer[];
  /** One of the job's parts (windows, sentences) is done with it. */
  readonly completesPart: boolean;
}

export interface StageTurn {
  /** Jobs of which something was admitted for the first time, or again. */
  readonly started: readonly number[];
  readonly messages: readonly StageMessage[];
}

/** Launches are under way, and none has run: other stages may have something to do. */
export const NOTHING_YET: StageTurn = { started: [], messages: [] };

export interface StageGauges {
  readonly lanesWaiting: number;
  readonly lanesRunning: number;
  readonly slotsUsed: number;
  readonly slotsTotal: number;
  readonly cacheRowsUsed: number;
  readonly cacheRowsTotal: number;
}

export interface Stage {
  readonly model: string;
  /** The jobs it takes; the loop brings it no others. */
  readonly kind: Job['kind'];
  /** Takes the job and tells how many messages will complete a part of it. Throws ServerError when it can't be taken. */
  submit(job: Job, timeLimits: TimeLimits): number;
  /** The job leaves; its rows are not in the next step. */
  abort(jobId: number): void;
  /** One part of the job ends as it stands; only for a stage whose parts can. */
  stop?(jobId: number, index: number): void;
  /** Aborts the jobs that are out of time. */
  expire(nowMs: number): readonly Expired[];
  /** Forgets a job that was answered. */
  settle(jobId: number): void;
  /** A part of a text was read: see SpanJob. */
  taken?(jobId: number, index: number): void;
  /** Throws ServerError when there is no such session, or a request of it is in work. */
  endSession?(key: string): void;
  /** Frees what was kept for whoever might come back, and did not in time; true when there was any. */
  expireIdle?(): boolean;
  /** When that is due next; null: nothing is kept. */
  idleUntilMs?(): number | null;
  /** Runs one plan; null: there is nothing to do; NOTHING_YET: what is under way has not run. Rejects when a graph fails. */
  turn(now: () => number): Promise<StageTurn | null>;
  gauges(): StageGauges;
  /** What happened since the last call. */
  telemetry(): readonly StageTelemetry[];
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer E)[] ? E[] : T[K] };
type Halting = Pick<HaltingCounts, 'atStep' | 'remainderTenths' | 'remainderSum'>;
const NOTHING_HALTS: Halting = { atStep: [], remainderTenths: [], remainderSum: 0 };

type Tally = Mutable<Omit<StageTelemetry, 'model' | 'stage' | 'haltedAtStep' | 'remainderTenths' | 'remainderSum'>>;

/** Counts of one stack between two reports. */
export class StageCounter {
  private tally = emptyTally();

  constructor(
    private readonly model: string,
    private readonly stage: StageName,
  ) {}

  step(active: number, renewed: number, keys: { readonly keysUseful: number; readonly keysComputed: number }): void {
    this.tally.steps += 1;
    this.tally.activeRows += active;
    this.tally.renewedRows += renewed;
    this.tally.rowsPerStep.push(active);
    this.tally.keysUseful += keys.keysUseful;
    this.tally.keysComputed += keys.keysComputed;
  }

  /** Several steps as one launch, of which only the sums are known. */
  launch(steps: number, active: number, renewed: number): void {
    this.tally.steps += steps;
    this.tally.activeRows += active;
    this.tally.renewedRows += renewed;
    for (let i = 0; i < steps; i++) this.tally.rowsPerStep.push(active / steps);
  }

  padded(rows: number): void {
    this.tally.paddedRows += rows;
  }

  /** Milliseconds in graphs, and around them. */
  time(computeMs: number, hostMs: number): void {
    this.tally.computeSeconds += computeMs / 1000;
    this.tally.hostSeconds += hostMs / 1000;
  }

  /** @param halting what halted meanwhile; a model of fixed depth leaves it out */
  take({ atStep, remainderTenths, remainderSum }: Halting = NOTHING_HALTS): StageTelemetry {
    const { tally } = this;
    this.tally = emptyTally();
    const halting = { haltedAtStep: atStep, remainderTenths, remainderSum };
    return { model: this.model, stage: this.stage, ...tally, ...halting };
  }
}

function emptyTally(): Tally {
  return {
    steps: 0,
    computeSeconds: 0,
    hostSeconds: 0,
    activeRows: 0,
    renewedRows: 0,
    paddedRows: 0,
    keysUseful: 0,
    keysComputed: 0,
    rowsPerStep: [],
  };
}
