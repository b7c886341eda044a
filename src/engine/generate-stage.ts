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
import type { GeneratedTokens, GenerateJob, Job, SequenceResult, StageTelemetry, TokenScores } from './protocol.js';
import { type Stage, StageCounter, type StageGauges, type StageMessage, type StageTurn } from './stage.js';

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

/** What a sequence will be answered with beside what it says. */
interface Answer {
  prompt: TokenScores | null;
  firstTokenAtMs: number | null;
}

export class GenerateStage implements Stage {
  readonly kind = 'generate';
  readonly model: string;
  private readonly scheduler: GenerateScheduler;
  private readonly counter: StageCounter;
  private readonly jobs = new Map<number, GenerateJob>();
  private readonly answers = new Map<Sequence, Answer>();
  private stopped: StageMessage[] = [];
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
    this.jobs.set(jobId, job);
    return requests.length;
  }

  abort(jobId: number): void {
    this.scheduler.abort(jobId);
    this.settle(jobId);
  }

  stop(jobId: number, index: number): void {
    const stopped = this.scheduler.stop(jobId, index);
    if (stopped === null) return;
    this.stopped.push(this.answer(stopped.sequence, 'stop', stopped.cacheRows));
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.scheduler.expire(nowMs);
    for (const { jobId } of expired) this.settle(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.scheduler.settle(jobId);
    this.jobs.delete(jobId);
    this.stopped = this.stopped.filter((message) => message.jobId !== jobId);
    for (const sequence of [...this.answers.keys()]) {
      if (sequence.request.jobId === jobId) this.answers.delete(sequence);
    }
  }

  async turn(now: () => number): Promise<StageTurn | null> {
    if (this.stopped.length > 0) {
      const messages = this.stopped;
      this.stopped = [];
      return { started: [], messages };
    }
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
        const messages = this.applyFinish(plan, results, ran);
        counter.time(ran - planned, planned - startMs + now() - ran);
        return { started: plan.sequences.map(({ request }) => request.jobId), messages };
      }
      default:
        return plan satisfies never;
    }
  }

  private applyFinish(plan: GenerateFinishPlan, results: readonly FinishedBurst[], nowMs: number): StageMessage[] {
    const messages: StageMessage[] = [];
    plan.sequences.forEach((sequence, i) => {
      const prompt = results[i]?.prompt ?? null;
      if (sequence.burst > 0) return;
      const scores = prompt === null ? null : promptScores(sequence, prompt);
      const saysNothing = sequence.request.maxNewTokens === 0;
      this.answers.set(sequence, { prompt: scores, firstTokenAtMs: saysNothing ? null : nowMs });
      if (scores !== null && this.streams(sequence)) {
        const { jobId, index } = sequence.request;
        messages.push({ jobId, message: { type: 'prompt', jobId, index, scores }, transfer: [], completesPart: false });
      }
    });
    const { tokens, done } = this.scheduler.applyFinish(
      plan,
      results.map(({ next }) => next),
    );
    for (const { sequence, token } of tokens) {
      if (!this.streams(sequence)) continue;
      const { jobId, index } = sequence.request;
      const message = { type: 'generated', jobId, index, token: toTokens([token]) } as const;
      messages.push({ jobId, message, transfer: [], completesPart: false });
    }
    for (const { sequence, finishReason, cacheRows } of done) {
      messages.push(this.answer(sequence, finishReason, cacheRows));
    }
    return messages;
  }

  private streams({ request }: Sequence): boolean {
    return this.jobs.get(request.jobId)?.streamTokens === true;
  }

  private answer(sequence: Sequence, finishReason: SequenceResult['finishReason'], cacheRows: number): StageMessage {
    const { jobId, index } = sequence.request;
    const answer = this.answers.get(sequence) ?? { prompt: null, firstTokenAtMs: null };
    this.answers.delete(sequence);
    const { length: positions, positionSteps, said } = sequence;
    const result: SequenceResult = {
      ...answer,
      tokens: toTokens(said),
      finishReason,
      positions,
      positionSteps,
      cacheRows,
    };
    return { jobId, message: { type: 'sequence', jobId, index, result }, transfer: [], completesPart: true };
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
    const { atStep, remainderTenths, remainderSum } = this.scheduler.takeHalting();
    return [this.counter.take({ haltedAtStep: atStep, remainderTenths, remainderSum })];
  }
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
