/** Generation with a model that carries a cache from block to block: as `generate-stage.ts`, with blocks in place of steps of depth. */
import type { AdaptiveSpan } from '../families/adaptive-span.js';
import type { SpanDescription } from '../models/description.js';
import type { Expired, TimeLimits } from '../scheduler/lane-queue.js';
import { unitOfBlock } from '../scheduler/span-blocks.js';
import {
  type SpanGeneratePlan,
  SpanGenerateScheduler,
  type SpanSaidToken,
  type SpanSequence,
} from '../scheduler/span-generate-scheduler.js';
import type { SpanLimits } from '../scheduler/span-scheduler.js';
import { GenerateMessages } from './generate-messages.js';
import type { GeneratedTokens, Job, SequenceResult, SpanBlockResult, StageTelemetry } from './protocol.js';
import { computedKeys, headCount, meanSpan, reachOf } from './span-keys.js';
import { type Stage, StageCounter, type StageGauges, type StageTurn } from './stage.js';

export interface SpanGenerateModel {
  readonly id: string;
  readonly bosId: number;
  readonly vocabularySize: number;
  readonly span: SpanDescription;
  /** Called once, when the first job comes: caches that nobody needs take no memory. */
  readonly open: () => Pick<AdaptiveSpan, 'advance'>;
}

export class SpanGenerateStage implements Stage {
  readonly kind = 'generate';
  readonly model: string;
  private readonly scheduler: SpanGenerateScheduler;
  private readonly counter: StageCounter;
  private readonly messages = new GenerateMessages();
  private opened: Pick<AdaptiveSpan, 'advance'> | null = null;

  constructor(
    private readonly served: SpanGenerateModel,
    limits: SpanLimits,
  ) {
    this.model = served.id;
    this.scheduler = new SpanGenerateScheduler(limits, served.bosId, served.vocabularySize);
    this.counter = new StageCounter(served.id, 'generate');
  }

  submit(job: Job, timeLimits: TimeLimits): number {
    if (job.kind !== 'generate') throw new Error(`a generating stage got a job to ${job.kind}`);
    const { id: jobId, maxNewTokens, temperature, topP, topLogprobs: topCount, promptLogprobs, spanCap } = job;
    const stopIds = new Set(job.stopIds);
    const reach = reachOf(this.served.span, spanCap);
    const requests = job.prompts.map((prompt, index) => {
      const sampling = { temperature, topP, seed: job.seeds[index] as number };
      return { jobId, index, prompt, maxNewTokens, topCount, promptLogprobs, stopIds, spanCap, reach, ...sampling };
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
    const sequence = this.scheduler.stop(jobId, index);
    if (sequence !== null) this.end(sequence, 'stop');
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
    const startMs = now();
    const plan = this.scheduler.schedule();
    if (plan === null) return null;
    this.opened ??= this.served.open();
    const planned = now();
    const unscored = new Set(plan.lanes.filter(({ done, asked }) => done < asked.prompt.length || done === 0));
    const results = plan.blockTokens === 0 ? [] : await this.opened.advance(plan);
    const ran = now();
    const { tokens, done } = this.scheduler.apply(plan, results);
    for (const sequence of unscored) {
      const { promptScores, asked } = sequence;
      if (promptScores === null || sequence.done < asked.prompt.length) continue;
      const none = { depths: new Uint8Array(0), remainders: new Float32Array(0) };
      this.messages.prompt(whose(sequence), { ...promptScores, ...none });
    }
    for (const { sequence, token } of tokens) this.messages.token(whose(sequence), toTokens([token]), ran);
    for (const { sequence, finishReason } of done) this.end(sequence, finishReason);
    this.count(plan, results);
    this.counter.time(ran - planned, planned - startMs + now() - ran);
    return { started: plan.lanes.map(({ asked }) => asked.jobId), messages: this.messages.take() };
  }

  private count({ lanes, blockTokens, reach }: SpanGeneratePlan, results: readonly SpanBlockResult[]): void {
    const { span } = this.served;
    let tokens = 0;
    let keysUseful = 0;
    results.forEach(({ logprobs, spans }, i) => {
      const mean = meanSpan(span, lanes[i]?.asked.spanCap ?? null);
      tokens += logprobs.length;
      const sum = spans.length > 0 ? spans.reduce((total, keys) => total + keys, 0) : mean * logprobs.length;
      keysUseful += sum * headCount(span);
    });
    const keysComputed = lanes.length * blockTokens * computedKeys(span, reach, unitOfBlock(blockTokens));
    this.counter.step(tokens, 0, { keysUseful, keysComputed });
  }

  private end(sequence: SpanSequence, finishReason: SequenceResult['finishReason']): void {
    const tokens = toTokens(sequence.said);
    const { done: positions } = sequence;
    this.messages.end(whose(sequence), { tokens, finishReason, positions, positionSteps: positions, cacheRows: 0 });
  }

  gauges(): StageGauges {
    const { lanesWaiting, lanesRunning, slotsUsed, limits } = this.scheduler;
    return { lanesWaiting, lanesRunning, slotsUsed, slotsTotal: limits.lanesMax, cacheRowsUsed: 0, cacheRowsTotal: 0 };
  }

  telemetry(): readonly StageTelemetry[] {
    return [this.counter.take()];
  }
}

function whose({ asked: { jobId, index } }: SpanSequence) {
  return { jobId, index };
}

function toTokens(said: readonly SpanSaidToken[]): GeneratedTokens {
  return {
    ids: Int32Array.from(said, ({ id }) => id),
    logprobs: Float32Array.from(said, ({ logprob }) => logprob),
    topIds: Int32Array.from(said.flatMap(({ topIds }) => [...topIds])),
    topLogprobs: Float32Array.from(said.flatMap(({ topLogprobs }) => [...topLogprobs])),
    depths: new Uint8Array(0),
    remainders: new Float32Array(0),
    spans: Float32Array.from(said.flatMap(({ span }) => (span === undefined ? [] : [span]))),
  };
}
