/**
 * The Universal Transformer with adaptive depth: how its lanes begin, step and finish on the graphs of a package
 * (export/universal_transformer_onnx.py). It owns the pools of slots and turns a plan into the index tables of one run.
 *
 *   pools, one row a slot:   state [d]   accumulator [d]   halting sum [1]   key [d]   value [d]
 *   rows of a step:          all lanes' active positions, then all lanes' renewed ones
 */
import path from 'node:path';
import type { ScoreWindowResult } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import {
  type Backend,
  type ElementType,
  type Graph,
  hostArray,
  RuntimeFailure,
  type Tensor,
} from '../runtime/backend.js';
import { AttentionPlan, GROUP_FIELDS, planAttention } from '../scheduler/attention-plan.js';
import type { Lane } from '../scheduler/lane.js';
import type { AdvancePlan, AdvanceResult, FinishPlan, SchedulerLimits } from '../scheduler/scheduler.js';

// The output layer makes a [rows, vocabulary] matrix: at 64 rows and 8192 words it stays in the second-level cache.
const FINISH_CHUNK_ROWS = 64;

const GRAPH_NAMES = ['begin', 'step', 'finish', 'finish_top'] as const;
type GraphName = (typeof GRAPH_NAMES)[number];

/** What a family does for the engine: run a plan's rows. Results are valid until the next call. */
export interface Family {
  advance(plan: AdvancePlan): Promise<AdvanceResult>;
  /** One result per lane of the plan, in its order. */
  finish(plan: FinishPlan): Promise<ScoreWindowResult[]>;
  /** Attention pairs of the last step: asked for, and computed with padding. */
  readonly keysUseful: number;
  readonly keysComputed: number;
  release(): void;
}

/** Input tensors of a step whose first dimension follows the rows; grown on demand, reused from step to step. */
class StepInputs {
  private readonly tensors = new Map<string, { tensor: Tensor; capacity: number }>();

  constructor(private readonly backend: Backend) {}

  /** A tensor of this shape under this name; its previous contents may be gone. */
  take(name: string, type: ElementType, dims: readonly number[]): Tensor {
    const needed = dims.reduce((product, dim) => product * dim, 1);
    let entry = this.tensors.get(name);
    if (entry === undefined || entry.capacity < needed) {
      entry?.tensor.release();
      const capacity = Math.max(needed, 2 * (entry?.capacity ?? 32));
      entry = { tensor: this.backend.tensor(type, capacity), capacity };
      this.tensors.set(name, entry);
    }
    entry.tensor.reshape(dims);
    return entry.tensor;
  }

  int32(name: string, dims: readonly number[]): { tensor: Tensor; data: Int32Array } {
    const tensor = this.take(name, 'int32', dims);
    return { tensor, data: tensor.data as Int32Array };
  }

  release(): void {
    for (const { tensor } of this.tensors.values()) tensor.release();
    this.tensors.clear();
  }
}

export class UniversalTransformer implements Family {
  keysUseful = 0;
  keysComputed = 0;
  private readonly width: number;
  private readonly inputs: StepInputs;
  private readonly attention: AttentionPlan;
  private readonly state: Tensor;
  private readonly accumulator: Tensor;
  private readonly halting: Tensor;
  private readonly keys: Tensor;
  private readonly values: Tensor;

  private constructor(
    backend: Backend,
    private readonly graphs: Readonly<Record<GraphName, Graph>>,
    private readonly model: ModelDescription,
    limits: SchedulerLimits,
  ) {
    this.inputs = new StepInputs(backend);
    this.attention = new AttentionPlan(limits.rowsMax);
    const width = graphs.step.inputs['state']?.dims[1];
    if (typeof width !== 'number') throw new RuntimeFailure('open', 'the step graph has no fixed width');
    this.width = width;
    const pool = (columns: number) => {
      const tensor = backend.tensor('float32', limits.slotsMax * columns);
      tensor.reshape([limits.slotsMax, columns]);
      return tensor;
    };
    this.state = pool(width);
    this.accumulator = pool(width);
    this.halting = pool(1);
    this.keys = pool(width);
    this.values = pool(width);
  }

  /** Opens the package's graphs of its precision. Throws RuntimeFailure when a graph can't be opened or is not the one described. */
  static async open(backend: Backend, model: ModelDescription, limits: SchedulerLimits): Promise<UniversalTransformer> {
    const opened: Partial<Record<GraphName, Graph>> = {};
    try {
      for (const name of GRAPH_NAMES) {
        const described = model.graphs[name];
        if (described === undefined) throw new RuntimeFailure('open', `the package has no graph ${name}`);
        const graph = await backend.open(path.join(model.folder, described.file));
        opened[name] = graph;
        expectSame(name, 'input', described.inputs, graph.inputs);
        expectSame(name, 'output', described.outputs, graph.outputs);
      }
      return new UniversalTransformer(backend, opened as Record<GraphName, Graph>, model, limits);
    } catch (error) {
      for (const graph of Object.values(opened)) graph.release();
      throw error;
    }
  }

  async advance(plan: AdvancePlan): Promise<AdvanceResult> {
    if (plan.begin.length > 0) await this.begin(plan.begin);
    const { inputs } = this;
    const { activeRows } = plan;
    const rows = activeRows + plan.renewedRows;
    const slots = inputs.int32('slots', [rows]);
    const position = inputs.int32('position', [rows]);
    const step = inputs.int32('step', [rows]);
    const threshold = inputs.take('threshold', 'float32', [activeRows, 1]);
    const isLast = inputs.take('is_last', 'bool', [activeRows, 1]);
    const isHeld = inputs.take('is_held', 'bool', [activeRows, 1]);

    let row = 0;
    const add = (lane: Lane, positions: Int32Array, count: number, t: number) => {
      for (let i = 0; i < count; i++, row++) {
        const p = positions[i] as number;
        slots.data[row] = lane.slots[p] as number;
        position.data[row] = p;
        step.data[row] = t;
      }
    };
    for (const { lane, step: t, isLast: last, isHeld: held } of plan.lanes) {
      const end = row + lane.activeCount;
      (threshold.data as Float32Array).fill(lane.request.budget.threshold, row, end);
      (isLast.data as Uint8Array).fill(last ? 1 : 0, row, end);
      (isHeld.data as Uint8Array).fill(held ? 1 : 0, row, end);
      add(lane, lane.active, lane.activeCount, t);
    }
    for (const { lane, step: t } of plan.lanes) add(lane, lane.renewed, lane.renewedCount, t);

    const halted = inputs.take('halted', 'bool', [activeRows, 1]);
    const remainder = inputs.take('remainder', 'float32', [activeRows, 1]);
    const run = this.graphs.step.run(
      {
        ...this.pools(),
        slots: slots.tensor,
        // The scorer keeps one key and value a position, in the position's own slot.
        cache_rows: slots.tensor,
        position: position.tensor,
        step: step.tensor,
        threshold,
        is_last: isLast,
        is_held: isHeld,
        ...this.attentionTables(plan),
      },
      {
        state_out: this.state,
        accumulator_out: this.accumulator,
        halting_out: this.halting,
        keys_out: this.keys,
        values_out: this.values,
        halted,
        remainder,
      },
    );
    if (run !== undefined) await run;
    return { halted: halted.data as Uint8Array, remainders: remainder.data as Float32Array };
  }

  private pools(): Record<string, Tensor> {
    return {
      state: this.state,
      accumulator: this.accumulator,
      halting: this.halting,
      keys: this.keys,
      values: this.values,
    };
  }

  private attentionTables(plan: AdvancePlan): Record<string, Tensor> {
    const { attention, inputs } = this;
    planAttention(
      plan.lanes.map(({ lane }) => lane),
      this.width,
      attention,
    );
    this.keysUseful = attention.keysUseful;
    this.keysComputed = attention.keysComputed;
    const groups = inputs.take('groups', 'int64', [attention.groupCount, GROUP_FIELDS]);
    (groups.data as BigInt64Array).set(attention.groups.subarray(0, attention.groupCount * GROUP_FIELDS));
    const table = (name: string, from: Int32Array, count: number) => {
      const { tensor, data } = inputs.int32(name, [count]);
      data.set(from.subarray(0, count));
      return tensor;
    };
    return {
      groups,
      query_index: table('query_index', attention.queryIndex, attention.queryCount),
      visible: table('visible', attention.visible, attention.queryCount),
      key_index: table('key_index', attention.keyIndex, attention.keyCount),
      row: table('row', attention.row, plan.activeRows),
    };
  }

  private async begin(lanes: readonly Lane[]): Promise<void> {
    const rows = lanes.reduce((sum, lane) => sum + lane.length, 0);
    const ids = this.inputs.int32('begin_ids', [rows]);
    const slots = this.inputs.int32('begin_slots', [rows]);
    let row = 0;
    for (const lane of lanes) {
      // Position i predicts ids[i], so it reads the token before: <s>, ids[0], ids[1], ...
      ids.data[row] = this.model.bosId;
      ids.data.set(lane.request.ids.subarray(0, lane.length - 1), row + 1);
      slots.data.set(lane.slots, row);
      row += lane.length;
    }
    const { state, accumulator, halting } = this;
    const run = this.graphs.begin.run(
      { ids: ids.tensor, slots: slots.tensor, state, accumulator, halting },
      { state_out: state, accumulator_out: accumulator, halting_out: halting },
    );
    if (run !== undefined) await run;
  }

  async finish(plan: FinishPlan): Promise<ScoreWindowResult[]> {
    const results = plan.lanes.map(emptyResult);
    const rows: { lane: Lane; result: ScoreWindowResult; position: number }[] = [];
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

  private async finishChunk(
    rows: readonly { lane: Lane; result: ScoreWindowResult; position: number }[],
  ): Promise<void> {
    const { inputs, accumulator } = this;
    const slots = inputs.int32('finish_slots', [rows.length]);
    const targets = inputs.int32('finish_targets', [rows.length]);
    let k = 0;
    rows.forEach(({ lane, position }, i) => {
      slots.data[i] = lane.slots[position] as number;
      targets.data[i] = lane.request.ids[position] as number;
      k = Math.max(k, lane.request.topCount);
    });
    const logprob = inputs.take('logprob', 'float32', [rows.length]);
    const bound = { accumulator, slots: slots.tensor, targets: targets.tensor };
    if (k === 0) {
      const run = this.graphs.finish.run(bound, { logprob });
      if (run !== undefined) await run;
    } else {
      const count = inputs.take('k', 'int64', [1]);
      (count.data as BigInt64Array)[0] = BigInt(k);
      const top = inputs.take('top_logprobs', 'float32', [rows.length, k]);
      const ids = inputs.int32('top_ids', [rows.length, k]);
      const run = this.graphs.finish_top.run(
        { ...bound, k: count },
        { logprob, top_logprobs: top, top_ids: ids.tensor },
      );
      if (run !== undefined) await run;
      rows.forEach(({ lane, result, position }, i) => {
        const wanted = lane.request.topCount;
        const at = (position - lane.request.scoreFrom) * wanted;
        result.topLogprobs.set((top.data as Float32Array).subarray(i * k, i * k + wanted), at);
        result.topIds.set(ids.data.subarray(i * k, i * k + wanted), at);
      });
    }
    rows.forEach(({ lane, result, position }, i) => {
      const value = (logprob.data as Float32Array)[i] as number;
      if (Number.isNaN(value))
        throw new RuntimeFailure('finish', 'the model computed a log-probability that is not a number');
      result.logprobs[position - lane.request.scoreFrom] = value;
    });
  }

  release(): void {
    this.inputs.release();
    for (const tensor of Object.values(this.pools())) tensor.release();
    for (const graph of Object.values(this.graphs)) graph.release();
  }
}

function emptyResult(lane: Lane): ScoreWindowResult {
  const { scoreFrom, topCount } = lane.request;
  const count = lane.length - scoreFrom;
  return {
    logprobs: hostArray('float32', count) as Float32Array,
    depths: lane.depths.slice(scoreFrom),
    remainders: lane.remainders.slice(scoreFrom),
    topIds: new Int32Array(count * topCount),
    topLogprobs: new Float32Array(count * topCount),
    positionSteps: lane.positionSteps,
  };
}

function expectSame(graph: string, side: string, described: Graph['inputs'], opened: Graph['inputs']): void {
  const names = [...new Set([...Object.keys(described), ...Object.keys(opened)])];
  for (const name of names) {
    const want = described[name];
    const have = opened[name];
    const text = (spec: typeof want) => (spec === undefined ? 'nothing' : `${spec.type} [${spec.dims.join(', ')}]`);
    if (text(want) !== text(have)) {
      throw new RuntimeFailure(
        'open',
        `${graph}: ${side} ${name} is ${text(have)} in the graph and ${text(want)} in the manifest; export the package again`,
      );
    }
  }
}
