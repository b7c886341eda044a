/** What spans cost and saved between two reports of a model. */
import type { SpanDescription } from '../models/description.js';
import { unitOfBlock } from '../scheduler/span-blocks.js';
import type { SpanPlan } from '../scheduler/span-scheduler.js';
import { SPAN_BOUNDS, type SpanBlockResult, type SpanTelemetry } from './protocol.js';
import { computedKeys, headCount, keyMultiplications, laneCacheBytes, meanSpan } from './span-keys.js';

export interface StepCost {
  readonly tokens: number;
  readonly keysUseful: number;
  readonly keysComputed: number;
}

type Counts = Pick<SpanTelemetry, 'keysFull' | 'multiplicationsNeeded' | 'multiplicationsComputed' | 'spanSum'>;
type Mutable<T> = { -readonly [K in keyof T]: T[K] };

const NONE: Counts = { keysFull: 0, multiplicationsNeeded: 0, multiplicationsComputed: 0, spanSum: 0 };

export class SpanCounter {
  private counts: Mutable<Counts> = { ...NONE };
  private tokensBySpan = emptyHistogram();
  private readonly heads: number;
  private readonly laneBytes: number;

  constructor(
    private readonly span: SpanDescription,
    blockTokens: number,
  ) {
    this.heads = headCount(span);
    this.laneBytes = laneCacheBytes(span, blockTokens);
  }

  /** Counts a step; returns its tokens, the keys they were asked for, and the keys their blocks computed. */
  step({ lanes, blockTokens, reach }: SpanPlan, results: readonly SpanBlockResult[]): StepCost {
    const { span, heads, counts } = this;
    let tokens = 0;
    let spans = 0;
    lanes.forEach(({ request }, i) => {
      const { logprobs, spans: ofTokens } = results[i] as SpanBlockResult;
      tokens += logprobs.length;
      if (ofTokens.length === 0) spans += this.add(meanSpan(span, request.spanCap), logprobs.length);
      else for (const keys of ofTokens) spans += this.add(keys, 1);
    });
    const rows = lanes.length * blockTokens;
    const keysUseful = spans * heads;
    const keysComputed = rows * computedKeys(span, reach, unitOfBlock(blockTokens));
    counts.keysFull += tokens * heads * span.spanMax;
    counts.spanSum += spans;
    counts.multiplicationsNeeded += tokens * span.tokenMultiplications + keysUseful * keyMultiplications(span);
    counts.multiplicationsComputed += rows * span.tokenMultiplications + keysComputed * keyMultiplications(span);
    return { tokens, keysUseful, keysComputed };
  }

  private add(keys: number, tokens: number): number {
    const bucket = SPAN_BOUNDS.findIndex((bound) => keys <= bound);
    const at = bucket < 0 ? SPAN_BOUNDS.length : bucket;
    this.tokensBySpan[at] = (this.tokensBySpan[at] as number) + tokens;
    return keys * tokens;
  }

  take(now: { readonly open: number; readonly slotsUsed: number; readonly slotsTotal: number }): SpanTelemetry {
    const { counts, tokensBySpan, laneBytes } = this;
    this.counts = { ...NONE };
    this.tokensBySpan = emptyHistogram();
    return {
      ...counts,
      tokensBySpan,
      sessionsOpen: now.open,
      cacheBytesUsed: now.slotsUsed * laneBytes,
      cacheBytesTotal: now.slotsTotal * laneBytes,
    };
  }
}

function emptyHistogram(): number[] {
  return new Array(SPAN_BOUNDS.length + 1).fill(0);
}
