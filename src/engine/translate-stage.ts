/**
 * Translation: a sentence is a lane of the encoder's scheduler, then a sentence of the decoder's. Both take turns, so one
 * sentence starts to decode when its own lane has halted, while others still encode.
 *
 *   job ──> encoder lanes ──memory rows──> decoder sentences ──> results, one a sentence
 */
import type { AttentionPlan } from '../scheduler/attention-plan.js';
import {
  type BestTokens,
  type DecodeAdvancePlan,
  type DecodeFinishPlan,
  type DecodeLimits,
  DecodeScheduler,
} from '../scheduler/decode-scheduler.js';
import {
  type AdvancePlan,
  type AdvanceResult,
  type Expired,
  type FinishPlan,
  Scheduler,
  type SchedulerLimits,
  type TimeLimits,
} from '../scheduler/scheduler.js';
import { SlotPool } from '../scheduler/slot-pool.js';
import type { Job, StageTelemetry } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageTurn } from './stage.js';
import { TranslateJobs, toHypothesis } from './translate-jobs.js';

/** What a translating family does for the engine; `families/translation.ts` implements it. */
export interface TranslationFamily {
  encode(plan: AdvancePlan): Promise<AdvanceResult>;
  encodeFinish(plan: FinishPlan): Promise<void>;
  decode(plan: DecodeAdvancePlan): Promise<AdvanceResult>;
  decodeFinish(plan: DecodeFinishPlan): Promise<BestTokens[]>;
  readonly encoderAttention: Pick<AttentionPlan, 'keysUseful' | 'keysComputed'>;
  readonly decoderAttention: Pick<AttentionPlan, 'keysUseful' | 'keysComputed'>;
}

export interface TranslateModel {
  readonly id: string;
  readonly maxSteps: number;
  readonly bosId: number;
  readonly eosId: number;
  /** Source positions, and target positions, of one sentence at most. */
  readonly contextTokens: number;
  readonly family: TranslationFamily;
}

export interface TranslateLimits {
  readonly encoder: SchedulerLimits;
  /** Source positions whose memory is held. */
  readonly memoryRowsMax: number;
  readonly decoder: DecodeLimits;
}

export class TranslateStage implements Stage {
  readonly kind = 'translate';
  readonly model: string;
  private readonly encoder: Scheduler;
  private readonly decoder: DecodeScheduler;
  private readonly memory: SlotPool;
  private readonly jobs: TranslateJobs;
  private readonly encoderCounter: StageCounter;
  private readonly decoderCounter: StageCounter;
  private readonly family: TranslationFamily;
  private decoderFirst = false;

  constructor({ id, maxSteps, bosId, eosId, contextTokens, family }: TranslateModel, limits: TranslateLimits) {
    this.model = id;
    this.jobs = new TranslateJobs(contextTokens);
    this.family = family;
    this.memory = new SlotPool(limits.memoryRowsMax);
    this.encoder = new Scheduler(limits.encoder, maxSteps, { causal: false, memory: this.memory });
    this.decoder = new DecodeScheduler(limits.decoder, maxSteps, bosId, eosId);
    this.encoderCounter = new StageCounter(id, 'encoder');
    this.decoderCounter = new StageCounter(id, 'decoder');
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    const lanes = this.jobs.take(job);
    this.encoder.submit(job.id, lanes, timeLimits);
    return lanes.length;
  }

  abort(jobId: number): void {
    this.encoder.abort(jobId);
    this.leaveDecoder(jobId);
  }

  private leaveDecoder(jobId: number): void {
    for (const rows of this.decoder.abort(jobId)) this.memory.give(rows);
    this.settle(jobId);
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.encoder.expire(nowMs);
    for (const { jobId } of expired) this.leaveDecoder(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.jobs.settle(jobId);
    this.encoder.settle(jobId);
  }

  async turn(now: () => number): Promise<StageTurn | null> {
    this.decoderFirst = !this.decoderFirst;
    return this.decoderFirst
      ? ((await this.decodeTurn(now)) ?? (await this.encodeTurn(now)))
      : ((await this.encodeTurn(now)) ?? (await this.decodeTurn(now)));
  }

  private async encodeTurn(now: () => number): Promise<StageTurn | null> {
    const { encoder, family, encoderCounter } = this;
    const startMs = now();
    const plan = encoder.schedule();
    if (plan === null) return null;
    const planned = now();
    switch (plan.kind) {
      case 'advance': {
        const result = await family.encode(plan);
        const ran = now();
        encoder.applyAdvance(plan, result);
        encoderCounter.step(plan.activeRows, plan.renewedRows, family.encoderAttention);
        encoderCounter.time(ran - planned, planned - startMs + now() - ran);
        return { started: plan.begin.map(({ request }) => request.jobId), messages: [] };
      }
      case 'finish': {
        await family.encodeFinish(plan);
        const ran = now();
        encoder.applyFinish(plan);
        this.handOver(plan);
        encoderCounter.time(ran - planned, planned - startMs + now() - ran);
        return { started: [], messages: [] };
      }
      default:
        return plan satisfies never;
    }
  }

  /** Encoded sentences go on to the decoder, and their memory rows with them. */
  private handOver({ lanes }: FinishPlan): void {
    for (const lane of lanes) {
      const decoding = this.jobs.toDecode(lane);
      if (decoding === null) throw new Error(`job ${lane.request.jobId} was encoded after it had left`);
      this.decoder.submit(decoding);
    }
  }

  private async decodeTurn(now: () => number): Promise<StageTurn | null> {
    const { decoder, family, decoderCounter } = this;
    const startMs = now();
    const plan = decoder.schedule();
    if (plan === null) return null;
    const planned = now();
    switch (plan.kind) {
      case 'advance': {
        const result = await family.decode(plan);
        const ran = now();
        decoder.applyAdvance(plan, result);
        decoderCounter.step(plan.active.length, plan.renewed.length, family.decoderAttention);
        decoderCounter.time(ran - planned, planned - startMs + now() - ran);
        return { started: [], messages: [] };
      }
      case 'finish': {
        const best = await family.decodeFinish(plan);
        const ran = now();
        for (const { request } of plan.sentences) this.jobs.decided(request, ran);
        const { done, tokens } = decoder.applyFinish(plan, best);
        const messages = this.jobs.tokenMessages(tokens);
        for (const { sentence, best: hypotheses } of done) {
          this.memory.give(sentence.request.memoryRows);
          messages.push(this.jobs.answer(sentence.request, sentence, hypotheses.map(toHypothesis)));
        }
        decoderCounter.time(ran - planned, planned - startMs + now() - ran);
        return { started: [], messages };
      }
      default:
        return plan satisfies never;
    }
  }

  gauges(): StageGauges {
    const { encoder, decoder } = this;
    return {
      lanesWaiting: encoder.lanesWaiting,
      lanesRunning: encoder.lanesRunning + decoder.lanesWaiting + decoder.lanesRunning,
      slotsUsed: encoder.slotsUsed,
      slotsTotal: encoder.limits.slotsMax,
      cacheRowsUsed: decoder.cache.used,
      cacheRowsTotal: decoder.cache.capacity,
    };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.encoderCounter.take(this.encoder.takeHalting()), this.decoderCounter.take(this.decoder.takeHalting())];
  }
}
