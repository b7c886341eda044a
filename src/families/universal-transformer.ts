/** Scoring with a Universal Transformer: a lane is a window of text, its positions predict their successors. */
import type { ScoreWindowResult } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import type { Backend, Graph } from '../runtime/backend.js';
import { AttentionPlan, planAttention } from '../scheduler/attention-plan.js';
import type { Lane } from '../scheduler/lane.js';
import type { AdvancePlan, AdvanceResult, FinishPlan, SchedulerLimits } from '../scheduler/scheduler.js';
import { OutputLayer, type OutputRow } from './output-layer.js';
import { openGraphs, Stack } from './stack.js';

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

interface FinishRow extends OutputRow {
  readonly lane: Lane;
  readonly result: ScoreWindowResult;
  readonly position: number;
}

export class UniversalTransformer implements Family {
  private readonly stack: Stack;
  private readonly output: OutputLayer;
  private readonly attention: AttentionPlan;

  private constructor(
    backend: Backend,
    readonly graphs: Graphs,
    private readonly model: ModelDescription,
    limits: SchedulerLimits,
  ) {
    this.attention = new AttentionPlan(limits.rowsMax);
    // One key and value a position: a lane only ever sees them as they stand at its own step.
    this.stack = new Stack(backend, graphs.begin, graphs.step, { slots: limits.slotsMax, cacheRows: limits.slotsMax });
    this.output = new OutputLayer(backend, graphs, this.stack.accumulator);
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
        rows.push({
          lane,
          result: results[i] as ScoreWindowResult,
          position,
          slot: lane.slots[position] as number,
          target: lane.request.ids[position] as number,
          topCount: lane.request.topCount,
        });
      }
    });
    await this.output.run(rows, ({ lane, result, position, topCount }, logprob, topIds, topLogprobs) => {
      const at = position - lane.request.scoreFrom;
      result.logprobs[at] = logprob;
      result.topIds.set(topIds, at * topCount);
      result.topLogprobs.set(topLogprobs, at * topCount);
    });
    return results;
  }

  release(): void {
    this.output.release();
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
