/**
 * Language models with a learned attention span (export/adaptive_span_onnx.py): a block of tokens a lane, keys and values of each
 * group of heads in a ring as long as the group's span.
 *
 *   pool of a group:   row 0 is zero for ever: the keys before the beginning of a stream, which take part in the softmax
 *                      then a ring of span + blockTokens rows a slot; position p lies at p modulo that
 *   window of a unit:  the span rows before the unit and the unit's own, oldest first; of a lane with a cap, fewer
 *
 * A block is computed as units (scheduler/span-blocks.ts). To the graph they are blocks of as many lanes: all keys and values of a layer are
 * in the pools before any of them is looked at.
 */
import type { SpanBlockResult } from '../engine/protocol.js';
import type { ModelDescription, SpanDescription } from '../models/description.js';
import { type Backend, type Graph, notANumber, RuntimeFailure, type Tensor } from '../runtime/backend.js';
import { unitOfBlock } from '../scheduler/span-blocks.js';
import type { SpanBlockLane } from '../scheduler/span-scheduler.js';
import { openGraphs, pool } from './stack.js';
import { StepInputs } from './step-inputs.js';

const GRAPHS = ['step'] as const;
const POOL = /^(?:keys|values)(\d+)_(\d+)$/;

// No head looks further than this; an uncapped lane's z stays what it is.
const NO_CAP = 1e9;

/** A block of each of these lanes, all of one length. */
export interface SpanBlocks {
  readonly lanes: readonly SpanBlockLane[];
  /** Tokens a lane, padding included. */
  readonly blockTokens: number;
  /** Keys that no head looks further than. */
  readonly reach: number;
}

export class AdaptiveSpan {
  private readonly inputs: StepInputs;
  private readonly pools: Readonly<Record<string, Tensor>>;
  /** The distinct spans of the groups: a window table each. */
  private readonly spans: readonly number[];
  private readonly dynamic: boolean;

  private constructor(
    private readonly backend: Backend,
    private readonly step: Graph,
    /** Whether it releases the graph. */
    private readonly owner: boolean,
    private readonly span: Pick<SpanDescription, 'spanMax' | 'ramp' | 'groups'>,
    private readonly lanesMax: number,
    private readonly blockTokens: number,
  ) {
    this.inputs = new StepInputs(backend);
    this.dynamic = 'z' in this.step.outputs;
    const pools: Record<string, Tensor> = {};
    const spans = new Set<number>();
    for (const [name, { dims }] of Object.entries(this.step.inputs)) {
      const match = POOL.exec(name);
      if (match === null) continue;
      const [layer, group] = [Number(match[1]), Number(match[2])];
      const keys = span.groups[layer]?.[group]?.span;
      if (keys === undefined) throw new RuntimeFailure('open', `the manifest has no group ${group} of layer ${layer}`);
      spans.add(keys);
      pools[name] = pool(backend, 1 + lanesMax * (keys + blockTokens), dims[1] as number);
    }
    this.pools = pools;
    this.spans = [...spans].sort((a, b) => a - b);
  }

  /** Throws RuntimeFailure when the graph can't be opened or is not the one described. */
  static async open(
    backend: Backend,
    model: ModelDescription,
    lanesMax: number,
    blockTokens: number,
  ): Promise<AdaptiveSpan> {
    if (model.span === undefined) throw new RuntimeFailure('open', 'the manifest says nothing of spans');
    const { step } = await openGraphs(backend, model, GRAPHS);
    return new AdaptiveSpan(backend, step, true, model.span, lanesMax, blockTokens);
  }

  /** The same with lanes of its own; to be released before this one, whose graph it runs. */
  another(): AdaptiveSpan {
    const { backend, step, span, lanesMax, blockTokens } = this;
    return new AdaptiveSpan(backend, step, false, span, lanesMax, blockTokens);
  }

  /** Runs a block of every lane of the plan; one result a lane, in its order. */
  async advance(plan: SpanBlocks): Promise<SpanBlockResult[]> {
    const { inputs } = this;
    const { lanes, blockTokens: m, reach } = plan;
    const unit = unitOfBlock(m);
    const units = m / unit;
    const u = lanes.length * units;
    const ids = inputs.int32('ids', [u, unit]);
    const targets = inputs.int32('targets', [u, unit]);
    const cap = inputs.float32('cap', [u, 1, 1, 1]);
    const k = Math.max(1, ...lanes.map(({ request }) => request.topCount));
    const count = inputs.take('k', 'int64', [1]);
    (count.data as BigInt64Array)[0] = BigInt(k);
    lanes.forEach((lane, i) => {
      const text = lane.request.ids;
      const taken = text.subarray(lane.done, lane.done + m);
      // Padding at the end of the last block is computed and never looked at.
      targets.data.fill(0, i * m, (i + 1) * m).set(taken, i * m);
      ids.data.fill(0, i * m, (i + 1) * m).set(taken.subarray(0, m - 1), i * m + 1);
      ids.data[i * m] = lane.done === 0 ? lane.startId : (text[lane.done - 1] as number);
      cap.data.fill(lane.request.spanCap ?? NO_CAP, i * units, (i + 1) * units);
    });
    const windows: Record<string, Tensor> = {};
    for (const span of this.spans)
      windows[`window${span}`] = this.window(span, Math.min(span, reach), lanes, unit, units);

    const logprob = inputs.float32('logprob', [u, unit]);
    const best = inputs.float32('top_logprobs', [u, unit, k]);
    const bestIds = inputs.int32('top_ids', [u, unit, k]);
    const outputs: Record<string, Tensor> = {
      logprob: logprob.tensor,
      top_logprobs: best.tensor,
      top_ids: bestIds.tensor,
    };
    const heads = this.dynamic ? (this.step.outputs.z?.dims[2] as number) : 0;
    const z = inputs.float32('z', [u, unit, heads]);
    if (this.dynamic) outputs.z = z.tensor;
    for (const [name, tensor] of Object.entries(this.pools)) outputs[`${name}_out`] = tensor;
    const bound = { ids: ids.tensor, targets: targets.tensor, cap: cap.tensor, k: count };
    const run = this.step.run({ ...bound, ...windows, ...this.pools }, outputs);
    if (run !== undefined) await run;

    return lanes.map(({ left, request: { topCount, spanCap } }, i) => {
      const n = Math.min(m, left);
      const logprobs = logprob.data.slice(i * m, i * m + n);
      if (logprobs.some(Number.isNaN)) {
        throw notANumber('step');
      }
      const result = { topIds: new Int32Array(n * topCount), topLogprobs: new Float32Array(n * topCount) };
      for (let t = 0; t < n && topCount > 0; t++) {
        const from = (i * m + t) * k;
        result.topIds.set(bestIds.data.subarray(from, from + topCount), t * topCount);
        result.topLogprobs.set(best.data.subarray(from, from + topCount), t * topCount);
      }
      return { logprobs, ...result, spans: this.meanSpans(z.data.subarray(i * m * heads), n, heads, spanCap) };
    });
  }

  /** Mean over all heads of the keys whose weight can be above 0, of each of `n` tokens; empty where spans do not depend on the token. */
  private meanSpans(z: Float32Array, n: number, heads: number, cap: number | null): Float32Array {
    const { spanMax, ramp } = this.span;
    const means = new Float32Array(this.dynamic ? n : 0);
    for (let t = 0; t < means.length; t++) {
      let sum = 0;
      for (let h = 0; h < heads; h++) {
        const capped = Math.min(z[t * heads + h] as number, cap ?? NO_CAP);
        sum += Math.min(spanMax, Math.ceil(capped + ramp));
      }
      means[t] = sum / heads;
    }
    return means;
  }

  /** @param keys before a unit that the lanes look at, of the `span` that the ring holds */
  private window(span: number, keys: number, lanes: readonly SpanBlockLane[], unit: number, units: number): Tensor {
    const width = keys + unit;
    const ring = span + this.blockTokens;
    const { tensor, data } = this.inputs.int32(`window${span}`, [lanes.length * units, width]);
    let at = 0;
    for (const lane of lanes) {
      const base = 1 + lane.slot * ring;
      for (let i = 0; i < units; i++) {
        const from = lane.startsAt + lane.done + i * unit - keys;
        const before = Math.min(width, Math.max(0, -from));
        data.fill(0, at, at + before);
        at += before;
        let row = (from + before) % ring;
        for (let left = width - before; left > 0; left--) {
          data[at++] = base + row;
          row = row + 1 === ring ? 0 : row + 1;
        }
      }
    }
    return tensor;
  }

  release(): void {
    this.inputs.release();
    for (const tensor of Object.values(this.pools)) tensor.release();
    if (this.owner) this.step.release();
  }
}
