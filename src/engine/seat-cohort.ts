/** Greedy sentences that decode on a device by themselves: while one launch is read, the next runs, and what it needs is already there. */
import { LAUNCHES_AHEAD, type SeatingDecoder } from '../families/seated-decoder.js';
import { notANumber } from '../runtime/backend.js';
import type { DecodeRequest } from '../scheduler/decode-scheduler.js';
import type { HaltingCounts } from '../scheduler/halting-counts.js';
import type { RangeMemory } from '../scheduler/range-memory.js';
import {
  type Said,
  type SeatedSentence,
  type SeatLimits,
  type SeatPlan,
  SeatScheduler,
} from '../scheduler/seat-scheduler.js';
import type { StageCounter, StageMessage } from './stage.js';
import { type TranslateJobs, toHypothesis } from './translate-jobs.js';

export interface SeatCohortSetup {
  readonly maxSteps: number;
  readonly eosId: number;
  readonly limits: SeatLimits;
  readonly family: SeatingDecoder;
  readonly jobs: TranslateJobs;
  readonly memory: RangeMemory;
  readonly counter: StageCounter;
}

/** With fewer sentences nothing is gained by a launch ahead, and the last one's end would be waited for in vain. */
const AHEAD_FROM = 16;

export class SeatCohort {
  private readonly scheduler: SeatScheduler;
  /** Under way, in their order. */
  private readonly plans: SeatPlan[] = [];

  constructor(private readonly setup: SeatCohortSetup) {
    this.scheduler = new SeatScheduler(setup.limits, setup.maxSteps, setup.eosId);
  }

  get sentences(): number {
    return this.scheduler.lanesWaiting + this.scheduler.lanesRunning;
  }
  get cacheRowsUsed(): number {
    return this.scheduler.cacheRowsUsed;
  }
  get cacheRowsMax(): number {
    return this.setup.limits.cacheRowsMax;
  }

  submit(request: DecodeRequest): void {
    this.scheduler.submit(request);
  }

  /**
   * What runs now still reads and writes for it, and what comes later does not. Its memory rows are given back all the same, and the encoder may write
   * them meanwhile, on its own stream: a row reads no memory but its own, and nobody hears what this one says any more. So it is after a repetition.
   */
  abort(jobId: number): void {
    for (const rows of this.scheduler.abort(jobId)) this.setup.memory.give(rows);
  }

  takeHalting(): HaltingCounts {
    return this.scheduler.takeHalting();
  }

  /** Launches that are to be under way. */
  private get ahead(): number {
    const { lanesRunning } = this.scheduler;
    if (this.sentences === 0) return 0;
    return lanesRunning < AHEAD_FROM ? 1 : LAUNCHES_AHEAD;
  }

  /** Whether a turn would not wait. */
  get ready(): boolean {
    const [oldest] = this.plans;
    return oldest === undefined || this.plans.length < this.ahead || this.setup.family.passed(oldest);
  }

  /** Reads a launch, enqueues one, or both; null: there is nothing to do. */
  turn(now: () => number): StageMessage[] | null {
    const { scheduler, plans, setup, ahead } = this;
    if (ahead === 0 && plans.length === 0) return null;
    const startMs = now();
    const messages: StageMessage[] = [];
    let waitedMs = 0;
    let deviceMs = 0;
    const read = plans.length >= ahead ? plans.shift() : undefined;
    if (read !== undefined) {
      const launch = setup.family.fetch(read);
      waitedMs = now() - startMs;
      deviceMs = launch.deviceMs;
      const progress = scheduler.apply(read, launch);
      setup.counter.launch(read.steps, progress.activeSteps, progress.renewed);
      setup.counter.padded(launch.rows * read.steps - progress.activeSteps);
      this.settle(progress.said, progress.done, now(), messages);
    }
    const plan = plans.length < this.ahead ? scheduler.schedule() : null;
    if (plan !== null) {
      setup.family.enqueue(plan);
      plans.push(plan);
    }
    if (read === undefined && plan === null) return null;
    setup.counter.time(deviceMs, now() - startMs - waitedMs);
    return messages;
  }

  private settle(
    said: readonly Said[],
    done: readonly SeatedSentence[],
    nowMs: number,
    messages: StageMessage[],
  ): void {
    const { jobs, memory } = this.setup;
    for (const { sentence, from, to } of said) {
      const { request, ids, logprobs, depths } = sentence;
      for (let n = from; n < to; n++) {
        if (Number.isNaN(logprobs[n])) throw notANumber('decode');
      }
      if (from === 0) jobs.decided(request, nowMs);
      if (!jobs.streams(request)) continue;
      for (let n = from; n < Math.min(to, ids.length); n++) {
        const token = { id: ids[n] as number, logprob: logprobs[n] as number, depth: depths[n] as number };
        messages.push(jobs.tokenMessage({ request, ...token }));
      }
    }
    for (const sentence of done) {
      const { request } = sentence;
      memory.give(request.memoryRows);
      messages.push(jobs.answer(request, sentence, [toHypothesis(sentence.decoded())]));
    }
  }
}
