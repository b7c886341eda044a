/**
 * The tables of one decoder step (export/cuda/kernels.h), laid out in one array of numbers so that they cross to the device as one copy. Where
 * each part lies depends on the buckets of a step alone, so a captured step finds them at fixed addresses.
 *
 *   active [a, 8]  seen [a, 2]  slots [a]  renewed [m, 8]  begin [m, 8]  ids [m]  key index [...]
 *
 * Runs for every step on the thread that keeps the device busy: loops over numbers, and no object is made.
 */
import { candidatesPerHypothesis } from '../scheduler/beam.js';
import type { DecodeAdvancePlan, Hypothesis, Sentence } from '../scheduler/decode-scheduler.js';
import type { PrefixKeys } from './prefix-keys.js';
import { ROW_FIELDS } from './resident-stack.js';

/** Rows of a captured step: hypotheses, and how many of them begin or have a position renewed beside them. */
export interface DecodeBucket {
  readonly rows: number;
  readonly others: number;
}

/** Where the parts begin. */
export interface DecodeLayout extends DecodeBucket {
  readonly seen: number;
  readonly slots: number;
  readonly renewed: number;
  readonly begin: number;
  readonly ids: number;
  readonly keys: number;
}

/** Kernels read rows of a table in halves of 16 bytes. */
const ALIGNED = ROW_FIELDS;

export function decodeLayout({ rows, others }: DecodeBucket): DecodeLayout {
  const seen = rows * ROW_FIELDS;
  const slots = seen + 2 * rows;
  const renewed = Math.ceil((slots + rows) / ALIGNED) * ALIGNED;
  const begin = renewed + others * ROW_FIELDS;
  const ids = begin + others * ROW_FIELDS;
  return { rows, others, seen, slots, renewed, begin, ids, keys: ids + others };
}

/** What a padding row allows: more steps than any model has. */
const PADDING_LIMITS = 255 * 256;

export interface FilledTables {
  /** Numbers of the array in use. */
  readonly count: number;
  readonly keys: number;
  /** Best tokens that the widest beam asks for. */
  readonly k: number;
}

export function fillDecodeTables(
  { active, renewed, begin }: DecodeAdvancePlan,
  at: DecodeLayout,
  prefixKeys: PrefixKeys,
  table: Int32Array,
  thresholds: Float32Array,
): FilledTables {
  for (let i = 0; i < begin.length; i++) prefixKeys.begin(begin[i] as Hypothesis);
  let keys = 0;
  let before: Sentence | null = null;
  let first = 0;
  let visible = 0;
  let limits = 0;
  let threshold = 0;
  let k = 1;
  for (let row = 0; row < active.length; row++) {
    const hypothesis = active[row];
    if (hypothesis === undefined) break;
    const { sentence, node, slot, steps } = hypothesis;
    if (sentence !== before) {
      const { budget, memoryRows, beam } = sentence.request;
      before = sentence;
      first = memoryRows[0] as number;
      visible = memoryRows.length;
      limits = budget.maxSteps * 256 + budget.minSteps;
      threshold = budget.threshold;
      k = Math.max(k, candidatesPerHypothesis(beam));
    }
    const { position } = node;
    writeRow(table, row * ROW_FIELDS, slot, node.rows[steps] as number, position, steps + 1, keys, limits);
    keys += prefixKeys.write(hypothesis, table, at.keys + keys);
    thresholds[row] = threshold;
    table[at.seen + 2 * row] = first;
    table[at.seen + 2 * row + 1] = visible;
    table[at.slots + row] = slot;
  }
  for (let row = active.length; row < at.rows; row++) {
    writePadding(table, row * ROW_FIELDS);
    thresholds[row] = 1;
    table[at.seen + 2 * row] = 0;
    table[at.seen + 2 * row + 1] = 1;
    table[at.slots + row] = -1;
  }
  for (let row = 0; row < at.others; row++) {
    const renewal = renewed[row];
    const to = at.renewed + row * ROW_FIELDS;
    if (renewal === undefined) writePadding(table, to);
    else {
      const { node, slot, step } = renewal;
      writeRow(table, to, slot, node.rows[step - 1] as number, node.position, step, 0, PADDING_LIMITS);
    }
  }
  for (let row = 0; row < at.others; row++) {
    const hypothesis = begin[row];
    writePadding(table, at.begin + row * ROW_FIELDS);
    if (hypothesis !== undefined) table[at.begin + row * ROW_FIELDS] = hypothesis.slot;
    table[at.ids + row] = hypothesis === undefined ? 0 : hypothesis.inputId;
  }
  // Padding rows look at the first key, so there is one.
  if (keys === 0) table[at.keys] = 0;
  return { count: at.keys + Math.max(1, keys), keys, k };
}

/** A row of the table; it sees the keys up to its own position. */
function writeRow(
  table: Int32Array,
  at: number,
  slot: number,
  cacheRow: number,
  position: number,
  step: number,
  firstKey: number,
  limits: number,
): void {
  table[at] = slot;
  table[at + 1] = cacheRow;
  table[at + 2] = position;
  table[at + 3] = step;
  table[at + 4] = firstKey;
  table[at + 5] = position + 1;
  table[at + 6] = 0;
  table[at + 7] = limits;
}

function writePadding(table: Int32Array, at: number): void {
  writeRow(table, at, -1, -1, 0, 1, 0, PADDING_LIMITS);
}
