/**
 * One recurrent stack on the device: its pools, and how rows begin and step (export/universal_transformer_onnx.py). What the rows are
 * (positions of a text, of a source sentence, hypotheses of a translation) is the family's business.
 *
 *   slots, one a position in work:   state [d]   accumulator [d]   halting sum [1]
 *   cache, one a position and depth: key [d]   value [d]
 *   rows of a step:                  active rows, then renewed ones (their key and value only)
 */
import path from 'node:path';
import type { Budget } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import { type Backend, type Graph, RuntimeFailure, type Tensor } from '../runtime/backend.js';
import { type AttentionPlan, GROUP_FIELDS } from '../scheduler/attention-plan.js';
import { haltingRule } from '../scheduler/halting-rule.js';
import type { AdvanceResult } from '../scheduler/scheduler.js';
import { expectSame } from './graph-agreement.js';
import { StepInputs } from './step-inputs.js';

// The output layer makes a [rows, vocabulary] matrix: at 64 rows and 8192 words it stays in the second-level cache.
export const FINISH_CHUNK_ROWS = 64;

export interface StackSizes {
  readonly slots: number;
  readonly cacheRows: number;
}

/** What a decoder attends over beside itself. */
export interface Memory {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly attention: AttentionPlan;
}

/** The rows of one step, filled by the family: `add` in order, active rows first. */
export class StepRows {
  private row = 0;

  constructor(
    readonly activeRows: number,
    readonly renewedRows: number,
    inputs: StepInputs,
  ) {
    const rows = activeRows + renewedRows;
    this.slots = inputs.int32('slots', [rows]);
    this.cacheRows = inputs.int32('cache_rows', [rows]);
    this.position = inputs.int32('position', [rows]);
    this.step = inputs.int32('step', [rows]);
    this.threshold = inputs.float32('threshold', [activeRows, 1]);
    this.isLast = inputs.take('is_last', 'bool', [activeRows, 1]);
    this.isHeld = inputs.take('is_held', 'bool', [activeRows, 1]);
  }

  readonly slots;
  readonly cacheRows;
  readonly position;
  readonly step;
  readonly threshold;
  readonly isLast: Tensor;
  readonly isHeld: Tensor;

  /** One row. `step` counts from 1; `cacheRow` is where its key and value of that step go. */
  add(slot: number, cacheRow: number, position: number, step: number): void {
    this.slots.data[this.row] = slot;
    this.cacheRows.data[this.row] = cacheRow;
    this.position.data[this.row] = position;
    this.step.data[this.row] = step;
    this.row += 1;
  }

  /** The halting rule of the next `count` active rows, which are at `step`. Call before adding them. */
  rule(count: number, step: number, budget: Budget): void {
    const { isLast, isHeld } = haltingRule(step, budget);
    const end = this.row + count;
    this.threshold.data.fill(budget.threshold, this.row, end);
    (this.isLast.data as Uint8Array).fill(isLast ? 1 : 0, this.row, end);
    (this.isHeld.data as Uint8Array).fill(isHeld ? 1 : 0, this.row, end);
  }
}

export class Stack {
  readonly accumulator: Tensor;
  /** Heads x head size. */
  readonly width: number;
  private readonly inputs: StepInputs;
  private readonly state: Tensor;
  private readonly halting: Tensor;
  private readonly keys: Tensor;
  private readonly values: Tensor;

  constructor(
    backend: Backend,
    private readonly begin: Graph,
    private readonly step: Graph,
    sizes: StackSizes,
  ) {
    this.inputs = new StepInputs(backend);
    this.width = widthOf(step);
    this.state = pool(backend, sizes.slots, this.width);
    this.accumulator = pool(backend, sizes.slots, this.width);
    this.halting = pool(backend, sizes.slots, 1);
    this.keys = pool(backend, sizes.cacheRows, this.width);
    this.values = pool(backend, sizes.cacheRows, this.width);
  }

  /** Embeds `count` tokens into their slots; `fill` writes both. */
  async start(count: number, fill: (ids: Int32Array, slots: Int32Array) => void): Promise<void> {
    const ids = this.inputs.int32('begin_ids', [count]);
    const slots = this.inputs.int32('begin_slots', [count]);
    fill(ids.data, slots.data);
    const { state, accumulator, halting } = this;
    const run = this.begin.run(
      { ids: ids.tensor, slots: slots.tensor, state, accumulator, halting },
      { state_out: state, accumulator_out: accumulator, halting_out: halting },
    );
    if (run !== undefined) await run;
  }

  rows(activeRows: number, renewedRows: number): StepRows {
    return new StepRows(activeRows, renewedRows, this.inputs);
  }

  /** Runs one step. The result is valid until the next. */
  async advance(rows: StepRows, attention: AttentionPlan, memory: Memory | null): Promise<AdvanceResult> {
    const { inputs, state, accumulator, halting, keys, values } = this;
    const halted = inputs.take('halted', 'bool', [rows.activeRows, 1]);
    const remainder = inputs.float32('remainder', [rows.activeRows, 1]);
    const run = this.step.run(
      {
        ...{ state, accumulator, halting, keys, values },
        slots: rows.slots.tensor,
        cache_rows: rows.cacheRows.tensor,
        position: rows.position.tensor,
        step: rows.step.tensor,
        threshold: rows.threshold.tensor,
        is_last: rows.isLast,
        is_held: rows.isHeld,
        ...this.tables('', attention, rows.activeRows),
        ...(memory === null
          ? {}
          : {
              memory_keys: memory.keys,
              memory_values: memory.values,
              ...this.tables('memory_', memory.attention, rows.activeRows),
            }),
      },
      {
        state_out: state,
        accumulator_out: accumulator,
        halting_out: halting,
        keys_out: keys,
        values_out: values,
        halted,
        remainder: remainder.tensor,
      },
    );
    if (run !== undefined) await run;
    return { halted: halted.data as Uint8Array, remainders: remainder.data };
  }

  private tables(prefix: string, attention: AttentionPlan, rows: number): Record<string, Tensor> {
    const groups = this.inputs.take(`${prefix}groups`, 'int64', [attention.groupCount, GROUP_FIELDS]);
    (groups.data as BigInt64Array).set(attention.groups.subarray(0, attention.groupCount * GROUP_FIELDS));
    const table = (name: string, from: Int32Array, count: number): [string, Tensor] => {
      const { tensor, data } = this.inputs.int32(prefix + name, [count]);
      data.set(from.subarray(0, count));
      return [prefix + name, tensor];
    };
    return Object.fromEntries([
      [`${prefix}groups`, groups],
      table('query_index', attention.queryIndex, attention.queryCount),
      table('visible', attention.visible, attention.queryCount),
      table('key_index', attention.keyIndex, attention.keyCount),
      table('row', attention.row, rows),
    ]);
  }

  release(): void {
    this.inputs.release();
    for (const tensor of [this.state, this.accumulator, this.halting, this.keys, this.values]) tensor.release();
  }
}

export function pool(backend: Backend, rows: number, columns: number): Tensor {
  const capacity = rows * columns;
  const tensor = backend.pool?.('float32', capacity) ?? backend.tensor('float32', capacity);
  tensor.reshape([rows, columns]);
  return tensor;
}

function widthOf(step: Graph): number {
  const width = step.inputs.state?.dims[1];
  if (typeof width !== 'number') throw new RuntimeFailure('open', 'the step graph has no fixed width');
  return width;
}

/** Opens the named graphs of a package; on failure none stays open. Throws RuntimeFailure naming the graph and the disagreement. */
export async function openGraphs<Name extends string>(
  backend: Backend,
  model: ModelDescription,
  names: readonly Name[],
): Promise<Record<Name, Graph>> {
  const opened = new Map<string, Graph>();
  try {
    for (const name of names) {
      const described = model.graphs[name];
      if (described === undefined) throw new RuntimeFailure('open', `the package has no graph ${name}`);
      const graph = await backend.open(path.join(model.folder, described.file));
      opened.set(name, graph);
      expectSame(name, described, graph);
    }
  } catch (error) {
    for (const graph of opened.values()) graph.release();
    throw error;
  }
  return Object.fromEntries(opened) as Record<Name, Graph>;
}
