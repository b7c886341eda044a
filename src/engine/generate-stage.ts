/** Generation: a job's prompts are sequences of one scheduler; each is answered when it ends, and heard of as it goes on if asked. */
import { ServerError } from '../errors.js';
import type { FinishedBurst, PromptScores } from '../families/generation.js';
import type { AttentionPlan } from '../scheduler/attention-plan.js';
import {
  type GenerateAdvancePlan,
  type GenerateFinishPlan,
  type GenerateLimits,
  GenerateScheduler,
} from '../scheduler/generate-scheduler.js';
import type { Expired, TimeLimits } from '../scheduler/lane-queue.js';
import type { AdvanceResult } from '../scheduler/scheduler.js';
import type { SaidToken, Sequence } from '../scheduler/sequence.js';
import { GenerateMessages } from './generate-messages.js';
import type { GeneratedTokens, Job, SequenceResult, StageTelemetry, TokenScores } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageTurn } from './stage.js';

/** What a generating family does for the engine; `families/generation.ts` implements it. */
export interface GeneratingFamily {
  advance(plan: GenerateAdvancePlan): Promise<AdvanceResult>;
  finish(plan: GenerateFinishPlan): Promise<FinishedBurst[]>;
  readonly attention: Pick<AttentionPlan, 'keysUseful' | 'keysComputed'>;
}

export interface GenerateModel {
  readonly id: string;
  readonly maxSteps: number;
  /** Tokens of a prompt and what follows it at most. */
  readonly contextTokens: number;
  /** Called once, when the first job comes: pools that nobody needs take no memory. */
  readonly open: () => GeneratingFamily;
}

export class GenerateStage implements Stage {
  readonly kind = 'generate';
  readonly model: string;
  private readonly scheduler: GenerateScheduler;
  private readonly counter: StageCounter;
  private readonly messages = new GenerateMessages();
  private opened: GeneratingFamily | null = null;

  constructor(
    private readonly served: GenerateModel,
    limits: GenerateLimits,
  ) {
    this.model = served.id;
    this.scheduler = new GenerateScheduler(limits, served.maxSteps);
    this.counter = new StageCounter(served.id, 'generate');
  }

  private get family(): GeneratingFamily {
    this.opened ??= this.served.open();
    return this.opened;
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'generate') throw new Error(`a generating stage got a job to ${job.kind}`);
    const { contextTokens } = this.served;
    const { id: jobId, budget, temperature, topP, topLogprobs: topCount, promptLogprobs } = job;
    const stopIds = new Set(job.stopIds);
    const requests = job.prompts.map((prompt, index) => {
      // Position tables end there: a longer prompt would not be wrong but out of bounds, and take the worker with it.
      if (prompt.length > contextTokens) {
        throw new ServerError(
          'INVALID_REQUEST',
          `a prompt of ${prompt.length} tokens exceeds the model's context of ${contextTokens}: shorten it`,
        );
      }
      const maxNewTokens = Math.min(job.maxNewTokens, contextTokens - prompt.length);
      const seed = job.seeds[index] as number;
      const sampling = { temperature, topP, seed };
      return { jobId, index, prompt, budget, maxNewTokens, topCount, promptLogprobs, stopIds, ...sampling };
    });
    this.scheduler.submit(jobId, requests, timeLimits);
    this.messages.submit(job);
    return requests.length;
  }

  abort(jobId: number): void {
    this.scheduler.abort(jobId);
    this.messages.forget(jobId);
  }

  stop(jobId: number, index: number): void {
    const stopped = this.scheduler.stop(jobId, index);
    if (stopped !== null) this.end(stopped.sequence, 'stop', stopped.cacheRows);
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.scheduler.expire(nowMs);
    for (const { jobId } of expired) this.messages.forget(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.scheduler.settle(jobId);
    this.messages.forget(jobId);
  }

  async turn(now: () => number): Promise<StageTurn | null> {
    const stopped = this.messages.take();
    if (stopped.length > 0) return { started: [], messages: stopped };
    const { scheduler, counter } = this;
    const startMs = now();
    const plan = scheduler.schedule();
    if (plan === null) return null;
    const planned = now();
    switch (plan.kind) {
      case 'advance': {
        const { family } = this;
        const result = await family.advance(plan);
        const ran = now();
        scheduler.applyAdvance(plan, result);
        counter.step(plan.activeRows, plan.renewedRows, family.attention);
        counter.time(ran - planned, planned - startMs + now() - ran);
        return { started: plan.begin.map(({ request }) => request.jobId), messages: [] };
      }
      case 'finish': {
        const results = await this.family.finish(plan);
        const ran = now();
        this.applyFinish(plan, results, ran);
        counter.time(ran - planned, planned - startMs + now() - ran);
        return { started: plan.sequences.map(({ request }) => request.jobId), messages: this.messages.take() };
      }
      default:
        return plan satisfies never;
    }
  }

  private applyFinish(plan: GenerateFinishPlan, results: readonly FinishedBurst[], nowMs: number): void {
    const { messages } = this;
    plan.sequences.forEach((sequence, i) => {
      const prompt = results[i]?.prompt ?? null;
      if (prompt !== null) messages.prompt(whose(sequence), promptScores(sequence, prompt));
    });
    const { tokens, done } = this.scheduler.applyFinish(
      plan,
      results.map(({ next }) => next),
    );
    for (const { sequence, token } of tokens) messages.token(whose(sequence), toTokens([token]), nowMs);
    for (const { sequence, finishReason, cacheRows } of done) this.end(sequence, finishReason, cacheRows);
  }

  private end(sequence: Sequence, finishReason: SequenceResult['finishReason'], cacheRows: number): void {
    const { length: positions, positionSteps, said } = sequence;
    const tokens = toTokens(said);
    this.messages.end(whose(sequence), { tokens, finishReason, positions, positionSteps, cacheRows });
  }

  gauges(): StageGauges {
    const { lanesWaiting, lanesRunning, slotsUsed, limits, cache } = this.scheduler;
    return {
      lanesWaiting,
      lanesRunning,
      slotsUsed,
      slotsTotal: limits.slotsMax,
      cacheRowsUsed: cache.used,
      cacheRowsTotal: cache.capacity,
    };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.counter.take(this.scheduler.takeHalting())];
  }
}

function whose({ request: { jobId, index } }: Sequence) {
  return { jobId, index };
}

function promptScores({ request, positions }: Sequence, scores: PromptScores): TokenScores {
  const predicting = positions.slice(0, request.prompt.length);
  return {
    ...scores,
    depths: Uint8Array.from(predicting, ({ depth }) => depth),
    remainders: Float32Array.from(predicting, ({ remainder }) => remainder),
    spans: new Float32Array(0),
  };
}

function toTokens(said: readonly SaidToken[]): GeneratedTokens {
  return {
    ids: Int32Array.from(said, ({ id }) => id),
    logprobs: Float32Array.from(said, ({ logprob }) => logprob),
    topIds: Int32Array.from(said.flatMap(({ topIds }) => [...topIds])),
    topLogprobs: Float32Array.from(said.flatMap(({ topLogprobs }) => [...topLogprobs])),
    depths: Uint8Array.from(said, ({ depth }) => depth),
    remainders: Float32Array.from(said, ({ remainder }) => remainder),
    spans: new Float32Array(0),
  };
}
