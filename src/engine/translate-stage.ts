/**
 * Translation: a sentence is a lane of the encoder's scheduler, then a sentence of the decoder's. Both take turns, so one
 * sentence starts to decode when its own lane has halted, while others still encode.
 *
 *   job ──> encoder lanes ──memory rows──> decoder sentences ──> results, one a sentence
 */
import { ServerError } from '../errors.js';
import type { AttentionPlan } from '../scheduler/attention-plan.js';
import {
  type BestTokens,
  type DecodeAdvancePlan,
  type Decoded,
  type DecodeFinishPlan,
  type DecodeLimits,
  DecodeScheduler,
  type Sentence,
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
import type { Job, SentenceResult, StageTelemetry, TranslateJob, TranslationHypothesis } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageMessage, type StageTurn } from './stage.js';

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

/** What the decoder's sentence will be answered with beside its hypotheses. */
interface Encoded {
  readonly depths: Uint8Array;
  readonly steps: number;
  firstTokenAtMs: number | null;
}

export class TranslateStage implements Stage {
  readonly kind = 'translate';
  readonly model: string;
  private readonly encoder: Scheduler;
  private readonly decoder: DecodeScheduler;
  private readonly memory: SlotPool;
  private readonly jobs = new Map<number, TranslateJob>();
  private readonly encoded = new Map<string, Encoded>();
  private readonly encoderCounter: StageCounter;
  private readonly decoderCounter: StageCounter;
  private readonly family: TranslationFamily;
  private readonly contextTokens: number;
  private decoderFirst = false;

  constructor({ id, maxSteps, bosId, eosId, contextTokens, family }: TranslateModel, limits: TranslateLimits) {
    this.model = id;
    this.contextTokens = contextTokens;
    this.family = family;
    this.memory = new SlotPool(limits.memoryRowsMax);
    this.encoder = new Scheduler(limits.encoder, maxSteps, { causal: false, memory: this.memory });
    this.decoder = new DecodeScheduler(limits.decoder, maxSteps, bosId, eosId);
    this.encoderCounter = new StageCounter(id, 'encoder');
    this.decoderCounter = new StageCounter(id, 'decoder');
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'translate') throw new Error(`a translating stage got a job to ${job.kind}`);
    // Position tables end there: a longer sentence would not be wrong but out of bounds, and take the worker with it.
    const longest = Math.max(...job.sentences.map(({ length }) => length));
    if (longest > this.contextTokens) {
      throw new ServerError(
        'INVALID_REQUEST',
        `a sentence of ${longest} tokens exceeds the model's ${this.contextTokens}: split it`,
      );
    }
    this.jobs.set(job.id, job);
    const lanes = job.sentences.map((ids, index) => {
      return { jobId: job.id, index, ids, scoreFrom: 0, topCount: 0, budget: job.encoderBudget };
    });
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
    const job = this.jobs.get(jobId);
    job?.sentences.forEach((_, index) => {
      this.encoded.delete(keyOf(jobId, index));
    });
    this.jobs.delete(jobId);
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
    for (const { request, memoryRows, depths, positionSteps } of lanes) {
      const { jobId, index } = request;
      const job = this.jobs.get(jobId);
      if (job === undefined) throw new Error(`job ${jobId} was encoded after it had left`);
      this.encoded.set(keyOf(jobId, index), { depths, steps: positionSteps, firstTokenAtMs: null });
      const { decoderBudget: budget, beam, lengthPenalty } = job;
      const maxNewTokens = job.maxNewTokens[index] as number;
      this.decoder.submit({ jobId, index, memoryRows, budget, beam, lengthPenalty, maxNewTokens });
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
        const { done, tokens } = decoder.applyFinish(plan, best);
        for (const { request } of plan.sentences) {
          const encoded = this.encoded.get(keyOf(request.jobId, request.index));
          if (encoded !== undefined) encoded.firstTokenAtMs ??= ran;
        }
        const messages: StageMessage[] = tokens.flatMap(({ sentence, id, logprob, depth }) => {
          const { jobId, index } = sentence.request;
          if (this.jobs.get(jobId)?.streamTokens !== true) return [];
          const message = { type: 'token', jobId, index, id, logprob, depth } as const;
          return [{ jobId, message, transfer: [], completesPart: false }];
        });
        for (const { sentence, best: hypotheses } of done) messages.push(this.answer(sentence, hypotheses));
        decoderCounter.time(ran - planned, planned - startMs + now() - ran);
        return { started: [], messages };
      }
      default:
        return plan satisfies never;
    }
  }

  private answer(sentence: Sentence, best: readonly Decoded[]): StageMessage {
    const { jobId, index, memoryRows } = sentence.request;
    this.memory.give(memoryRows);
    const encoded = this.encoded.get(keyOf(jobId, index)) as Encoded;
    this.encoded.delete(keyOf(jobId, index));
    const hypotheses = best.map(toHypothesis);
    const result: SentenceResult = {
      hypotheses,
      encoderDepths: encoded.depths,
      encoderSteps: encoded.steps,
      decoderSteps: sentence.positionSteps,
      decoderPositions: sentence.positions,
      firstTokenAtMs: encoded.firstTokenAtMs as number,
    };
    const arrays = hypotheses.flatMap(({ ids, logprobs, depths }) => [ids, logprobs, depths]);
    return {
      jobId,
      message: { type: 'sentence', jobId, index, result },
      transfer: [encoded.depths, ...arrays].map(({ buffer }) => buffer as ArrayBuffer),
      completesPart: true,
    };
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
    const { atStep, remainderTenths, remainderSum } = this.encoder.takeHalting();
    const decoded = this.decoder.takeHalting();
    return [
      this.encoderCounter.take({ haltedAtStep: atStep, remainderTenths, remainderSum }),
      this.decoderCounter.take({
        haltedAtStep: decoded.atStep,
        remainderTenths: decoded.remainderTenths,
        remainderSum: decoded.remainderSum,
      }),
    ];
  }
}

function keyOf(jobId: number, index: number): string {
  return `${jobId}:${index}`;
}

function toHypothesis({ ids, logprobs, depths, score, finishReason }: Decoded): TranslationHypothesis {
  return {
    ids: Int32Array.from(ids),
    logprobs: Float32Array.from(logprobs),
    depths: Uint8Array.from(depths),
    score,
    finishReason,
  };
}
