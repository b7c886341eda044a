/**
 * Translation on a device. One encoder feeds what decodes: seats for greedy sentences, which go on without the host, and cohorts for beams, each with
 * a launch of its own under way, so that while the device runs one the host reads and plans another.
 *
 *   job ──> encoder lanes ──memory rows──> sentences in seats, or of a cohort ──> results, one a sentence
 *
 * The encoder has a stream of the device to itself: neither fills a GPU, so they run beside each other.
 */
import type { Launching } from '../families/launching.js';
import type { LaunchingDecoder } from '../families/resident-decoder.js';
import type { EncodedLane } from '../families/resident-encoder.js';
import type { SeatingDecoder } from '../families/seated-decoder.js';
import type { DecodeLimits } from '../scheduler/decode-scheduler.js';
import { HaltingCounts } from '../scheduler/halting-counts.js';
import { HaltingHistory } from '../scheduler/halting-history.js';
import { type Expired, LaneQueue, type TimeLimits } from '../scheduler/lane-queue.js';
import { RangeMemory } from '../scheduler/range-memory.js';
import { type ResidentLane, type ResidentLimits, ResidentScheduler } from '../scheduler/resident-scheduler.js';
import type { SeatLimits } from '../scheduler/seat-scheduler.js';
import { DecodeCohort } from './decode-cohort.js';
import { LaunchCohort } from './launch-cohort.js';
import type { Job, StageTelemetry } from './protocol.js';
import { SeatCohort } from './seat-cohort.js';
import { NOTHING_YET, type Stage, StageCounter, type StageGauges, type StageTurn } from './stage.js';
import { TranslateJobs } from './translate-jobs.js';

export interface ResidentTranslateModel {
  readonly id: string;
  readonly maxSteps: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly contextTokens: number;
  readonly encoder: Launching<EncodedLane>;
  /** Greedy sentences. */
  readonly seats: SeatingDecoder;
  /** Beams: one a cohort. */
  readonly decoders: readonly LaunchingDecoder[];
}

export interface ResidentTranslateLimits {
  readonly encoder: ResidentLimits;
  readonly memoryRows: number;
  readonly seats: SeatLimits;
  /** Of each cohort. */
  readonly decoder: DecodeLimits;
}

/** Looks at the device, of some microseconds each, before new jobs are asked for: the encoder may be waiting for one. */
const LOOKS = 8;
/** After so long the thread waits for the device and says nothing, so that a launch which hangs is noticed by whoever listens (watchdog.ts). */
const LOOKING_MS_MAX = 1000;

type Part = LaunchCohort<EncodedLane> | SeatCohort | DecodeCohort;

export class ResidentTranslateStage implements Stage {
  readonly kind = 'translate';
  readonly model: string;
  private readonly queue = new LaneQueue();
  private readonly jobs: TranslateJobs;
  private readonly memory: RangeMemory;
  private readonly encoder: LaunchCohort<EncodedLane>;
  private readonly history: HaltingHistory;
  private readonly encoderCounter: StageCounter;
  private readonly decoderCounter: StageCounter;
  private readonly seats: SeatCohort;
  private readonly cohorts: readonly DecodeCohort[];
  private readonly parts: readonly Part[];
  private readonly halting: HaltingCounts;
  /** Whose turn is next, of `parts`. */
  private next = 0;
  /** Since when nothing has run; null: something has. */
  private lookingSinceMs: number | null = null;

  constructor(model: ResidentTranslateModel, limits: ResidentTranslateLimits) {
    const { id, maxSteps, bosId, eosId } = model;
    this.model = id;
    this.jobs = new TranslateJobs(model.contextTokens);
    this.memory = new RangeMemory(limits.memoryRows);
    this.history = new HaltingHistory(maxSteps);
    this.halting = new HaltingCounts(maxSteps);
    this.encoderCounter = new StageCounter(id, 'encoder');
    const scheduler = new ResidentScheduler(limits.encoder, this.queue, this.history, this.memory);
    this.encoder = new LaunchCohort(scheduler, model.encoder, this.encoderCounter);
    this.decoderCounter = new StageCounter(id, 'decoder');
    const shared = { jobs: this.jobs, memory: this.memory, counter: this.decoderCounter };
    this.seats = new SeatCohort({ maxSteps, eosId, limits: limits.seats, family: model.seats, ...shared });
    this.cohorts = model.decoders.map((family) => {
      return new DecodeCohort({ maxSteps, bosId, eosId, limits: limits.decoder, family, ...shared });
    });
    this.parts = [this.encoder, this.seats, ...this.cohorts];
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    const lanes = this.jobs.take(job);
    this.encoder.scheduler.check(lanes);
    this.queue.submit(job.id, lanes, timeLimits);
    return lanes.length;
  }

  abort(jobId: number): void {
    this.queue.abort(jobId);
    this.jobs.settle(jobId);
    this.encoder.abort(jobId);
    this.seats.abort(jobId);
    for (const cohort of this.cohorts) cohort.abort(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.queue.overdue(nowMs);
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.jobs.settle(jobId);
    this.queue.settle(jobId);
  }

  /** One turn of whoever's launch has run, or who has none under way: what it gave is read, and the next enqueued. */
  async turn(now: () => number): Promise<StageTurn | null> {
    let waiting: Part | null = null;
    for (let looks = 0; looks < LOOKS; looks++) {
      waiting = null;
      for (let tried = 0; tried < this.parts.length; tried++) {
        const part = this.parts[this.next] as Part;
        this.next = (this.next + 1) % this.parts.length;
        if (!part.ready) waiting = part;
        else {
          const turn = this.turnOf(part, now);
          if (turn !== null) return turn;
        }
      }
      if (waiting === null) return null;
    }
    const nowMs = now();
    this.lookingSinceMs ??= nowMs;
    return nowMs - this.lookingSinceMs < LOOKING_MS_MAX ? NOTHING_YET : this.turnOf(waiting as Part, now);
  }

  private turnOf(part: Part, now: () => number): StageTurn | null {
    let turn: StageTurn | null = null;
    if (part instanceof LaunchCohort) {
      const started = part.turn(now, (lane, encoded) => this.handOver(lane, encoded));
      if (started !== null) turn = { started, messages: [] };
    } else {
      const messages = part.turn(now);
      if (messages !== null) turn = { started: [], messages };
    }
    if (turn !== null) this.lookingSinceMs = null;
    return turn;
  }

  /** An encoded sentence goes on to a seat, or to the cohort that has the fewest, and its memory rows with it. */
  private handOver({ request, memoryRows, positionSteps }: ResidentLane, { depths, remainders }: EncodedLane): void {
    const decoding = this.jobs.toDecode({ request, memoryRows, depths, positionSteps });
    if (decoding === null) {
      this.memory.give(memoryRows);
      return;
    }
    this.history.add(depths);
    this.halting.addAll(depths, remainders);
    if (decoding.beam === 1) this.seats.submit(decoding);
    else this.cohorts.reduce((least, cohort) => (cohort.sentences < least.sentences ? cohort : least)).submit(decoding);
  }

  gauges(): StageGauges {
    const { cohorts, seats } = this;
    const encoder = this.encoder.scheduler;
    const sum = (of: (cohort: DecodeCohort) => number) => cohorts.reduce((total, cohort) => total + of(cohort), 0);
    return {
      lanesWaiting: this.queue.lanes,
      lanesRunning: encoder.lanesRunning + seats.sentences + sum(({ sentences }) => sentences),
      slotsUsed: encoder.slotsUsed,
      slotsTotal: encoder.limits.slotsMax,
      cacheRowsUsed: seats.cacheRowsUsed + sum(({ cache }) => cache.used),
      cacheRowsTotal: seats.cacheRowsMax + sum(({ cache }) => cache.capacity),
    };
  }

  /** Source positions whose memory is held. */
  get memoryRowsUsed(): number {
    return this.memory.used;
  }

  telemetry(): readonly StageTelemetry[] {
    const decoded = this.seats.takeHalting();
    for (const cohort of this.cohorts) decoded.merge(cohort.takeHalting());
    return [this.encoderCounter.take(this.halting.take()), this.decoderCounter.take(decoded)];
  }
}
