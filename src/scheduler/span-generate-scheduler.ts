/**
 * Decides which blocks of which sequences run next, when texts are continued with a model that carries a cache from block to block. Pure.
 *
 *   prompt of 300, blocks of 128:   128 128 64 (44 tokens and the position that decides, padded)   then a token a block
 *
 * Blocks of one step have the same length, which is a function of the sequence alone (`span-blocks.ts`). Sequences take turns, so that a
 * long prompt and new tokens of others delay each other by a step and no more.
 */
import type { SpanBlockResult } from '../engine/protocol.js';
import { type Expired, LaneQueue, type TimeLimits } from './lane-queue.js';
import { chooseRank } from './sampling.js';
import type { SaidToken, SequenceRequest } from './sequence.js';
import { SlotPool } from './slot-pool.js';
import { blockLength } from './span-blocks.js';
import type { SpanBlockLane, SpanLaneRequest, SpanLimits } from './span-scheduler.js';

export type SpanSequenceRequest = Omit<SequenceRequest, 'budget'> & Pick<SpanLaneRequest, 'spanCap' | 'reach'>;

/** Of the prompt's tokens, as far as they are computed. */
export interface SpanPromptScores {
  readonly logprobs: Float32Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly spans: Float32Array;
}

export interface SpanSaidToken extends Omit<SaidToken, 'depth' | 'remainder'> {
  /** Mean z of the position that decided it; undefined for a model whose spans do not depend on the token. */
  readonly span: number | undefined;
}

export class SpanSequence implements SpanBlockLane {
  readonly startsAt = 0;
  slot = -1;
  /** Positions computed; position i predicts the i-th token of prompt and new tokens. */
  done = 0;
  /** The next block reaches the position that decides a token. */
  decides = false;
  readonly said: SpanSaidToken[] = [];
  /** The prompt and what was said, and room for the next. */
  private text: Int32Array;
  private readonly blocks: SpanBlockResult[] = [];

  constructor(
    readonly asked: SpanSequenceRequest,
    readonly startId: number,
    private readonly vocabularySize: number,
  ) {
    this.text = new Int32Array(asked.prompt.length + 1);
    this.text.set(asked.prompt);
  }

  get goesOn(): boolean {
    return this.said.length < this.asked.maxNewTokens;
  }

  /** Positions to compute before the next token is chosen, or before the end. */
  get left(): number {
    return this.asked.prompt.length + this.said.length + (this.goesOn ? 1 : 0) - this.done;
  }

  get request(): SpanBlockLane['request'] {
    return { ids: this.text, topCount: this.candidates, spanCap: this.asked.spanCap };
  }

  /** Wanted of each position of the next block. A token is drawn from all: no less would be exact at every temperature. */
  private get candidates(): number {
    const { prompt, temperature, topCount, promptLogprobs } = this.asked;
    if (this.decides) return temperature > 0 ? this.vocabularySize : Math.max(1, topCount);
    return promptLogprobs && this.done < prompt.length ? topCount : 0;
  }

  /** One block is computed. Returns the token that it decided, if it reached that far. */
  take(result: SpanBlockResult): SpanSaidToken | null {
    const count = result.logprobs.length;
    const ofPrompt = Math.min(count, Math.max(0, this.asked.prompt.length - this.done));
    if (this.asked.promptLogprobs && ofPrompt > 0) this.blocks.push(this.firstOf(result, ofPrompt));
    this.done += count;
    return this.left === 0 && this.goesOn ? this.say(result) : null;
  }

  private firstOf({ logprobs, topIds, topLogprobs, spans }: SpanBlockResult, count: number): SpanBlockResult {
    const k = topIds.length / logprobs.length;
    const { topCount } = this.asked;
    const best = <A extends Int32Array | Float32Array>(all: A, into: A): A => {
      for (let t = 0; t < count; t++) into.set(all.subarray(t * k, t * k + topCount), t * topCount);
      return into;
    };
    return {
      logprobs: logprobs.slice(0, count),
      topIds: best(topIds, new Int32Array(count * topCount)),
      topLogprobs: best(topLogprobs, new Float32Array(count * topCount)),
      spans: spans.slice(0, count),
    };
  }

  private say({ logprobs, topIds, topLogprobs, spans }: SpanBlockResult): SpanSaidToken {
    const k = topIds.length / logprobs.length;
    const ids = topIds.subarray(-k);
    const best = topLogprobs.subarray(-k);
    const { topCount } = this.asked;
    const rank = chooseRank(best, this.asked, this.said.length);
    const token = {
      id: ids[rank] as number,
      logprob: best[rank] as number,
      topIds: ids.slice(0, topCount),
      topLogprobs: best.slice(0, topCount),
      span: spans.at(-1),
    };
    const at = this.asked.prompt.length + this.said.length;
    this.said.push(token);
    if (at + 1 >= this.text.length) {
      const longer = new Int32Array(2 * (at + 1));
      longer.set(this.text);
      this.text = longer;
    }
    this.text[at] = token.id;
    return token;
  }

  /** The prompt's scores, once all of it is computed; null unless they were asked for. */
  get promptScores(): SpanPromptScores | null {
    if (!this.asked.promptLogprobs) return null;
    const floats = (of: (block: SpanBlockResult) => Float32Array) =>
      Float32Array.from(this.blocks.flatMap((block) => [...of(block)]));
    return {
      logprobs: floats(({ logprobs }) => logprobs),
      topIds: Int32Array.from(this.blocks.flatMap(({ topIds }) => [...topIds])),
      topLogprobs: floats(({ topLogprobs }) => topLogprobs),
      spans: floats(({ spans }) => spans),
    };
  }
}

export interface SpanGeneratePlan {
  readonly lanes: readonly SpanSequence[];
  /** Tokens a lane, padding included; the same for all. */
  readonly blockTokens: number;
  /** Keys that no head looks further than; the same for all. */
  readonly reach: number;
}

export interface SpanGenerateProgress {
  readonly tokens: readonly { readonly sequence: SpanSequence; readonly token: SpanSaidToken }[];
  /** Sequences that are done; they have left. */
  readonly done: readonly { readonly sequence: SpanSequence; readonly finishReason: 'stop' | 'length' }[];
}

// One position alone would take the runtime's vector-matrix kernels when nothing else is in the step, and sum in another order than in company.
const TOKEN_BLOCK = 2;

export class SpanGenerateScheduler {
  private readonly queue = new LaneQueue<SpanSequenceRequest>(
    ({ prompt, maxNewTokens }) => prompt.length + maxNewTokens,
  );
  private running: SpanSequence[] = [];
  private readonly slots: SlotPool;

  constructor(
    readonly limits: SpanLimits,
    private readonly bosId: number,
    private readonly vocabularySize: number,
  ) {
    this.slots = new SlotPool(limits.lanesMax);
  }

  get lanesWaiting(): number {
    return this.queue.lanes;
  }
  get lanesRunning(): number {
    return this.running.length;
  }
  get slotsUsed(): number {
    return this.slots.capacity - this.slots.available;
  }

  submit(jobId: number, requests: readonly SpanSequenceRequest[], timeLimits: TimeLimits): void {
    this.queue.submit(jobId, requests, timeLimits);
  }

  abort(jobId: number): void {
    this.queue.abort(jobId);
    for (const sequence of [...this.running]) if (sequence.asked.jobId === jobId) this.leave(sequence);
  }

  /** One sequence ends as it stands; null when it is not running. */
  stop(jobId: number, index: number): SpanSequence | null {
    const sequence = this.running.find(({ asked }) => asked.jobId === jobId && asked.index === index);
    if (sequence !== undefined) this.leave(sequence);
    return sequence ?? null;
  }

  expire(nowMs: number): readonly Expired[] {
    const expired = this.queue.overdue(nowMs);
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  settle(jobId: number): void {
    this.queue.settle(jobId);
  }

  private leave(sequence: SpanSequence): void {
    this.slots.give(Int32Array.of(sequence.slot));
    this.running = this.running.filter((other) => other !== sequence);
  }

  schedule(): SpanGeneratePlan | null {
    while (this.slots.available > 0) {
      if (this.queue.head() === null) break;
      const sequence = new SpanSequence(this.queue.take(), this.bosId, this.vocabularySize);
      sequence.slot = this.slots.take(1)[0] as number;
      this.running.push(sequence);
    }
    const [first] = this.running;
    if (first === undefined) return null;
    const blockTokens = this.blockOf(first);
    const lanesMax = Math.max(1, Math.floor(this.limits.rowsMax / Math.max(1, blockTokens)));
    const { reach } = first.asked;
    const isAlike = (sequence: SpanSequence) =>
      this.blockOf(sequence) === blockTokens && sequence.asked.reach === reach;
    const lanes = this.running.filter(isAlike).slice(0, lanesMax);
    for (const sequence of lanes) sequence.decides = sequence.goesOn && sequence.left <= blockTokens;
    return { lanes, blockTokens, reach };
  }

  /** 0: nothing is to be computed of it. */
  private blockOf({ left, asked }: SpanSequence): number {
    if (left <= 1) return left * TOKEN_BLOCK;
    return blockLength(asked.prompt.length + 1, left, this.limits.blockTokens);
  }

  /** The results of a plan's blocks, in its order. */
  apply({ lanes }: SpanGeneratePlan, results: readonly SpanBlockResult[]): SpanGenerateProgress {
    const tokens: { sequence: SpanSequence; token: SpanSaidToken }[] = [];
    const done: { sequence: SpanSequence; finishReason: 'stop' | 'length' }[] = [];
    lanes.forEach((sequence, i) => {
      const result = results[i];
      const token = result === undefined ? null : sequence.take(result);
      if (token !== null) tokens.push({ sequence, token });
      const stops = token !== null && sequence.asked.stopIds.has(token.id);
      if (stops || (sequence.left === 0 && !sequence.goesOn)) {
        done.push({ sequence, finishReason: stops ? 'stop' : 'length' });
      }
    });
    const ran = new Set(lanes);
    this.running = [...this.running.filter((sequence) => !ran.has(sequence)), ...lanes];
    for (const { sequence } of done) this.leave(sequence);
    return { tokens, done };
  }
}
