/** Scoring with a Universal Transformer: a lane is a window of text, its positions predict their successors. */
import type { ScoreWindowResult } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import { type Backend, type Graph, RuntimeFailure } from '../runtime/backend.js';
import { AttentionPlan, planAttention } from '../scheduler/attention-plan.js';
import type { Lane } from '../scheduler/lane.js';
import type { AdvancePlan, AdvanceResult, FinishPlan, SchedulerLimits } from '../scheduler/scheduler.js';
import { FINISH_CHUNK_ROWS, openGraphs, Stack } from './stack.js';
import { StepInputs } from './step-inputs.js';

const GRAPHS = ['begin', 'step', 'finish', 'finish_top'] as const;
type Graphs = Readonly<Record<(typeof GRAPHS)[number], Graph>>;

/** What a scoring family does for the engine: run a plan's rows. Results are valid until the next call. */
export interface Family {
  advance(plan: AdvancePlan): Promise<AdvanceResult>;
  /** One result per lane of the plan, in its order. */
  finish(plan: FinishPlan): Promise<ScoreWindowResult[]>;
  /** Attention pairs of the last step: asked for, and computed with padding. */
  readonly keysUseful: number;
  readonly keysComputed: number;
  release(): void;
}

interface FinishRow {
  readonly lane: Lane;
  readonly result: ScoreWindowResult;
  readonly position: number;
}

export class UniversalTransformer implements Family {
  private readonly stack: Stack;
  private readonly inputs: StepInputs;
  private readonly attention: AttentionPlan;

  private constructor(
    backend: Backend,
    private readonly graphs: Graphs,
    private readonly model: ModelDescription,
    limits: SchedulerLimits,
  ) {
    this.inputs = new StepInputs(backend);
    this.attention = new AttentionPlan(limits.rowsMax);
    // One key and value a position: a lane only ever sees them as they stand at its own step.
    this.stack = new Stack(backend, graphs.begin, graphs.step, { slots: limits.slotsMax, cacheRows: limits.slotsMax });
  }

  /** Opens the package's graphs of its precision. Throws RuntimeFailure when a graph can't be opened or is not the one described. */
  static async open(backend: Backend, model: ModelDescription, limits: SchedulerLimits): Promise<UniversalTransformer> {
    return new UniversalTransformer(backend, await openGraphs(backend, model, GRAPHS), model, limits);
  }

  get keysUseful(): number {
    return this.attention.keysUseful;
  }
  get keysComputed(): number {
    return this.attention.keysComputed;
  }

  async advance(plan: AdvancePlan): Promise<AdvanceResult> {
    if (plan.begin.length > 0) await this.begin(plan.begin);
    const lanes = plan.lanes.map(({ lane }) => lane);
    planAttention(lanes, this.stack.width, this.attention);
    return this.stack.advance(laneRows(this.stack, plan), this.attention, null);
  }

  private begin(lanes: readonly Lane[]): Promise<void> {
    const count = lanes.reduce((sum, lane) => sum + lane.length, 0);
    return this.stack.start(count, (ids, slots) => {
      let row = 0;
      for (const lane of lanes) {
        // Position i predicts ids[i], so it reads the token before: <s>, ids[0], ids[1], ...
        ids[row] = this.model.bosId;
        ids.set(lane.request.ids.subarray(0, lane.length - 1), row + 1);
        slots.set(lane.slots, row);
        row += lane.length;
      }
    });
  }

  async finish(plan: FinishPlan): Promise<ScoreWindowResult[]> {
    const results = plan.lanes.map(emptyResult);
    const rows: FinishRow[] = [];
    plan.lanes.forEach((lane, i) => {
      for (let position = lane.request.scoreFrom; position < lane.length; position++) {
        rows.push({ lane, result: results[i] as ScoreWindowResult, position });
      }
    });
    for (let start = 0; start < rows.length; start += FINISH_CHUNK_ROWS) {
      await this.finishChunk(rows.slice(start, start + FINISH_CHUNK_ROWS));
    }
    return results;
  }

  private async finishChunk(rows: readonly FinishRow[]): Promise<void> {
    const { inputs, graphs } = this;
    const slots = inputs.int32('slots', [rows.length]);
    const targets = inputs.int32('targets', [rows.length]);
    let k = 0;
    rows.forEach(({ lane, position }, i) => {
      slots.data[i] = lane.slots[position] as number;
      targets.data[i] = lane.request.ids[position] as number;
      k = Math.max(k, lane.request.topCount);
    });
    const logprob = inputs.float32('logprob', [rows.length]);
    const bound = { accumulator: this.stack.accumulator, slots: slots.tensor, targets: targets.tensor };
    if (k === 0) {
      const run = graphs.finish.run(bound, { logprob: logprob.tensor });
      if (run !== undefined) await run;
    } else {
      const count = inputs.take('k', 'int64', [1]);
      (count.data as BigInt64Array)[0] = BigInt(k);
      const best = inputs.float32('top_logprobs', [rows.length, k]);
      const ids = inputs.int32('top_ids', [rows.length, k]);
      const outputs = { logprob: logprob.tensor, top_logprobs: best.tensor, top_ids: ids.tensor };
      const run = graphs.finish_top.run({ ...bound, k: count }, outputs);
      if (run !== undefined) await run;
      rows.forEach(({ lane, result, position }, i) => {
        const wanted = lane.request.topCount;
        const at = (position - lane.request.scoreFrom) * wanted;
        result.topLogprobs.set(best.data.subarray(i * k, i * k + wanted), at);
        result.topIds.set(ids.data.subarray(i * k, i * k + wanted), at);
      });
    }
    rows.forEach(({ lane, result, position }, i) => {
      const value = logprob.data[i] as number;
      if (Number.isNaN(value))
        throw new RuntimeFailure('finish', 'the model computed a log-probability that is not a number');
      result.logprobs[position - lane.request.scoreFrom] = value;
    });
  }

  release(): void {
    this.inputs.release();
    this.stack.release();
    for (const graph of Object.values(this.graphs)) graph.release();
  }
}

/** The rows of a plan over lanes: all active positions, lane after lane, then all renewed ones. */
export function laneRows(stack: Stack, plan: AdvancePlan): ReturnType<Stack['rows']> {
  const rows = stack.rows(plan.activeRows, plan.renewedRows);
  const add = (lane: Lane, positions: Int32Array, count: number, step: number) => {
    for (let i = 0; i < count; i++) {
      const position = positions[i] as number;
      const slot = lane.slots[position] as number;
      rows.add(slot, slot, position, step);
    }
  };
  for (const { lane, step } of plan.lanes) {
    rows.rule(lane.activeCount, step, lane.request.budget);
    add(lane, lane.active, lane.activeCount, step);
  }
  for (const { lane, step } of plan.lanes) add(lane, lane.renewed, lane.renewedCount, step);
  return rows;
}

function emptyResult(lane: Lane): ScoreWindowResult {
  const { scoreFrom, topCount } = lane.request;
  const count = lane.length - scoreFrom;
  return {
    logprobs: new Float32Array(count),
    depths: lane.depths.slice(scoreFrom),
    remainders: lane.remainders.slice(scoreFrom),
    topIds: new Int32Array(count * topCount),
    topLogprobs: new Float32Array(count * topCount),
    positionSteps: lane.positionSteps,
  };
}
