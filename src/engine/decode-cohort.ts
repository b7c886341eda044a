/** Sentences that decode by beams on a device in the same launches: one launch a step, and what it gives decides the next at once. */

import { BEAM_MAX } from '../config.js';
import type { DecodeLaunch, LaunchingDecoder } from '../families/resident-decoder.js';
import { candidatesPerHypothesis } from '../scheduler/beam.js';
import {
  type BestTokens,
  type DecodeAdvancePlan,
  type DecodeLimits,
  type DecodeRequest,
  DecodeScheduler,
  type Sentence,
} from '../scheduler/decode-scheduler.js';
import type { HaltingCounts } from '../scheduler/halting-counts.js';
import type { CachePool } from '../scheduler/prefix-cache.js';
import type { RangeMemory } from '../scheduler/range-memory.js';
import type { StageCounter, StageMessage } from './stage.js';
import { type TranslateJobs, toHypothesis } from './translate-jobs.js';

const BEST_MAX = candidatesPerHypothesis(BEAM_MAX);

export interface CohortSetup {
  readonly maxSteps: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly limits: DecodeLimits;
  readonly family: LaunchingDecoder;
  readonly jobs: TranslateJobs;
  readonly memory: RangeMemory;
  readonly counter: StageCounter;
}

export class DecodeCohort {
  private readonly scheduler: DecodeScheduler;
  /** The launch under way. */
  private plan: DecodeAdvancePlan | null = null;
  private aborted: number[] = [];
  /** Best tokens of each hypothesis that has halted, by its slot: siblings may halt in later steps. */
  private readonly bestIds: Int32Array;
  private readonly bestLogprobs: Float32Array;

  constructor(private readonly setup: CohortSetup) {
    const { limits, maxSteps, bosId, eosId } = setup;
    this.scheduler = new DecodeScheduler(limits, maxSteps, bosId, eosId);
    this.bestIds = new Int32Array(this.scheduler.slotCount * BEST_MAX);
    this.bestLogprobs = new Float32Array(this.scheduler.slotCount * BEST_MAX);
  }

  get sentences(): number {
    return this.scheduler.lanesWaiting + this.scheduler.lanesRunning;
  }
  get cache(): CachePool {
    return this.scheduler.cache;
  }

  submit(request: DecodeRequest): void {
    if (request.beam === 1) throw new Error('a greedy sentence has a seat');
    this.scheduler.submit(request);
  }

  abort(jobId: number): void {
    this.aborted.push(jobId);
    if (this.plan === null) this.drop();
  }

  private drop(): void {
    for (const jobId of this.aborted) for (const rows of this.scheduler.abort(jobId)) this.setup.memory.give(rows);
    this.aborted = [];
  }

  takeHalting(): HaltingCounts {
    return this.scheduler.takeHalting();
  }

  /** Whether a turn would not wait. */
  get ready(): boolean {
    return this.plan === null || this.setup.family.passed();
  }

  /** Reads the launch under way and enqueues the next; null: there is nothing to do. */
  turn(now: () => number): StageMessage[] | null {
    const { scheduler, setup } = this;
    if (this.plan === null && scheduler.idle) return null;
    const { family, counter } = setup;
    const startMs = now();
    let waitedMs = 0;
    let deviceMs = 0;
    const done = this.plan;
    if (done !== null) {
      const launch = family.fetch(done);
      waitedMs = now() - startMs;
      deviceMs = launch.deviceMs;
      scheduler.applyAdvance(done, launch);
      this.keepBest(done, launch);
      this.plan = null;
      counter.step(done.active.length, done.renewed.length, { keysUseful: launch.keys, keysComputed: launch.keys });
    }
    this.drop();
    const messages: StageMessage[] = [];
    let plan = scheduler.schedule();
    for (; plan?.kind === 'finish'; plan = scheduler.schedule()) this.finish(plan.sentences, now, messages);
    if (plan !== null) {
      family.enqueue(plan);
      this.plan = plan;
    }
    if (done === null && plan === null) return null;
    counter.padded(family.takePadded());
    counter.time(deviceMs, now() - startMs - waitedMs);
    return messages;
  }

  private keepBest({ active }: DecodeAdvancePlan, { halted, topIds, topLogprobs, k }: DecodeLaunch): void {
    for (let row = 0; row < active.length; row++) {
      if (halted[row] === 0) continue;
      const to = (active[row]?.slot as number) * BEST_MAX;
      for (let rank = 0; rank < k; rank++) {
        this.bestIds[to + rank] = topIds[row * k + rank] as number;
        this.bestLogprobs[to + rank] = topLogprobs[row * k + rank] as number;
      }
    }
  }

  private finish(sentences: readonly Sentence[], now: () => number, messages: StageMessage[]): void {
    const { jobs, memory } = this.setup;
    for (const { request } of sentences) jobs.decided(request, now());
    const { done, tokens } = this.scheduler.applyFinish(
      { kind: 'finish', sentences },
      sentences.map((sentence) => this.bestOf(sentence)),
    );
    messages.push(...jobs.tokenMessages(tokens));
    for (const { sentence, best } of done) {
      memory.give(sentence.request.memoryRows);
      messages.push(jobs.answer(sentence.request, sentence, best.map(toHypothesis)));
    }
  }

  private bestOf({ request, hypotheses }: Sentence): BestTokens {
    const k = candidatesPerHypothesis(request.beam);
    const ids = new Int32Array(hypotheses.length * k);
    const logprobs = new Float32Array(hypotheses.length * k);
    for (let i = 0; i < hypotheses.length; i++) {
      const from = (hypotheses[i]?.slot as number) * BEST_MAX;
      for (let rank = 0; rank < k; rank++) {
        ids[i * k + rank] = this.bestIds[from + rank] as number;
        logprobs[i * k + rank] = this.bestLogprobs[from + rank] as number;
      }
    }
    return { ids, logprobs, k };
  }
}
