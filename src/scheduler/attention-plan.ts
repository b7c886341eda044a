/**
 * Lays the attention of one step out as the tables of `RaggedAttention` (export/functions.py): lanes of any lengths, positions in
 * any state, no padded batch.
 *
 * A unit is a run of active queries of one lane with the keys up to the last of them. Cutting a lane into more units computes fewer
 * pairs above the diagonal but gathers the early keys more often, so a dense lane is cut finely and a nearly halted one not at
 * all. How a lane is cut, and its keys padded, is a function of its own active positions: the order of every sum, and so every
 * bit of a score, cannot depend on the batch. Units of equal key count form groups whose query counts are within a factor of
 * two, so that padding a group to its largest wastes less than half.
 *
 *   active queries   |--- 64 ---|--- 64 ---|- 3 -|        units of a lane of 140
 *   keys             [ 64 ]
 *                    [ 128                 ]
 *                    [ 192 (140 and padding)          ]
 */
import type { Lane } from './lane.js';

/** Queries of one unit at most reach over this many positions before a cut is considered. */
const CUT_EVERY = 64;

// A query alone would take ONNX Runtime's vector-matrix kernel, which sums in another order. With a second one beside it a position
// computes the same bits alone, as a new token does, and among others, as it does when its text is scored.
const CAUSAL_QUERIES_MIN = 2;

// What a cut costs and saves, in pairs of query and key (about 0.04 us on one core): a key gathered, a unit set up.
const PAIRS_PER_KEY = 10;
const PAIRS_PER_UNIT = 500;

/** Columns of `groups`; see RaggedAttention. */
export const GROUP_FIELDS = 17;

/** Reused from step to step; arrays grow on demand and never shrink. */
export class AttentionPlan {
  groups = new BigInt64Array(16 * GROUP_FIELDS);
  groupCount = 0;
  queryIndex: Int32Array;
  visible: Int32Array;
  queryCount = 0;
  keyIndex: Int32Array;
  keyCount = 0;
  /** Where each active row's answer lies among the padded queries. */
  row: Int32Array;
  /** Pairs of query and key asked for, and computed. */
  keysUseful = 0;
  keysComputed = 0;

  constructor(rows: number) {
    this.queryIndex = new Int32Array(2 * rows);
    this.visible = new Int32Array(2 * rows);
    this.keyIndex = new Int32Array(4 * rows);
    this.row = new Int32Array(rows);
  }
}

/** A run of queries that see a prefix of the same keys. Its rows lie next to each other among the step's active rows. */
export interface Unit {
  readonly firstRow: number;
  /** Per query: how many of the keys it sees. */
  readonly visible: ArrayLike<number>;
  /** Pool rows of the keys, in order of position. */
  readonly keyRows: Int32Array;
  /** Queries and keys after padding: a function of the lane alone. */
  readonly queries: number;
  readonly keys: number;
}

/** A sequence whose positions see those before them. */
export interface CausalQueries {
  /** Positions that run, ascending; the first `activeCount` count. */
  readonly active: Int32Array;
  readonly activeCount: number;
  readonly length: number;
  /** Pool rows of the keys of all its positions, in order. */
  readonly keyRows: Int32Array;
}

/** Lays out the active positions of causal lanes, whose rows lie one lane after another. `width`: heads x head size. */
export function planAttention(lanes: readonly CausalQueries[], width: number, plan: AttentionPlan): void {
  const units: Unit[] = [];
  let row = 0;
  for (const lane of lanes) {
    cutIntoUnits(lane, row, units);
    row += lane.activeCount;
  }
  layOut(units, row, width, plan);
}

/** The same for lanes whose positions see each other in both directions: a unit a lane. */
export function planFullAttention(lanes: readonly Lane[], width: number, plan: AttentionPlan): void {
  const units: Unit[] = [];
  let row = 0;
  for (const lane of lanes) {
    const visible = new Int32Array(lane.activeCount).fill(lane.length);
    if (lane.activeCount > 0) {
      const size = { queries: lane.activeCount, keys: paddedKeys(lane.length) };
      units.push({ firstRow: row, visible, keyRows: lane.slots, ...size });
    }
    row += lane.activeCount;
  }
  layOut(units, row, width, plan);
}

/** Fills `plan` with the units of one step of `rows` active rows. */
export function layOut(units: Unit[], rows: number, width: number, plan: AttentionPlan): void {
  plan.groupCount = 0;
  plan.queryCount = 0;
  plan.keyCount = 0;
  plan.keysUseful = 0;
  plan.keysComputed = 0;
  if (plan.row.length < rows) plan.row = new Int32Array(rows);
  // A total order, so that the layout is a function of the step alone.
  units.sort((a, b) => a.keys - b.keys || b.queries - a.queries || a.firstRow - b.firstRow);
  for (let start = 0; start < units.length; ) {
    const { keys, queries } = units[start] as Unit;
    let end = start + 1;
    // Never a unit of one query beside larger ones: it would leave the vector-matrix kernel, see above.
    const fits = (unit: Unit) => unit.keys === keys && unit.queries * 2 > queries;
    while (end < units.length && fits(units[end] as Unit)) end += 1;
    addGroup(plan, units.slice(start, end), queries, keys, width);
    start = end;
  }
}

/** Cuts greedily from the front: at every 64 positions, if the pairs it saves are worth gathering the keys so far again. */
function cutIntoUnits(lane: CausalQueries, firstRow: number, units: Unit[]): void {
  let start = 0;
  while (start < lane.activeCount) {
    let end = start;
    let keys = 0;
    while (end < lane.activeCount) {
      const boundary = (Math.floor((lane.active[end] as number) / CUT_EVERY) + 1) * CUT_EVERY;
      const next = firstAtOrAfter(lane, boundary, end);
      const wider = paddedKeys((lane.active[next - 1] as number) + 1);
      const queries = end - start;
      if (queries > 0 && queries * (wider - keys) > PAIRS_PER_KEY * keys + PAIRS_PER_UNIT) break;
      keys = wider;
      end = next;
    }
    const visible = lane.active.slice(start, end).map((position) => position + 1);
    const keyRows = lane.keyRows.subarray(0, Math.min(keys, lane.length));
    const queries = Math.max(CAUSAL_QUERIES_MIN, visible.length);
    units.push({ firstRow: firstRow + start, visible, keyRows, queries, keys });
    start = end;
  }
}

function firstAtOrAfter(lane: CausalQueries, position: number, from: number): number {
  let at = from;
  while (at < lane.activeCount && (lane.active[at] as number) < position) at += 1;
  return at;
}

/** Few distinct sizes, so that units of different lanes meet in a group: multiples of 16 up to 64, of 32 up to 128, of 64 above. */
export function paddedKeys(keys: number): number {
  const multiple = keys <= 64 ? 16 : keys <= 128 ? 32 : 64;
  return Math.ceil(keys / multiple) * multiple;
}

function addGroup(plan: AttentionPlan, units: readonly Unit[], queries: number, keys: number, width: number): void {
  const u = units.length;
  grow(plan, u * queries, u * keys);
  const { queryCount, keyCount } = plan;
  const fields = [
    ...[u, 1, queries],
    ...[u, 1, keys],
    ...[u, 1, queries, 1],
    ...[u * queries, width],
    ...[queryCount, queryCount + u * queries],
    ...[keyCount, keyCount + u * keys],
    keys,
  ];
  const at = plan.groupCount * GROUP_FIELDS;
  for (let i = 0; i < GROUP_FIELDS; i++) plan.groups[at + i] = BigInt(fields[i] as number);
  plan.groupCount += 1;
  plan.keysComputed += u * queries * keys;
  for (const { firstRow, visible, keyRows } of units) {
    for (let i = 0; i < queries; i++) {
      const padded = i >= visible.length;
      const seen = padded ? 1 : (visible[i] as number);
      plan.queryIndex[plan.queryCount] = padded ? firstRow : firstRow + i;
      plan.visible[plan.queryCount] = seen;
      if (!padded) {
        plan.row[firstRow + i] = plan.queryCount;
        plan.keysUseful += seen;
      }
      plan.queryCount += 1;
    }
    plan.keyIndex.set(keyRows, plan.keyCount);
    // Keys past the lane's end are never visible; any row that holds finite numbers will do.
    plan.keyIndex.fill(keyRows[0] as number, plan.keyCount + keyRows.length, plan.keyCount + keys);
    plan.keyCount += keys;
  }
}

function grow(plan: AttentionPlan, queries: number, keys: number): void {
  const queriesNeeded = plan.queryCount + queries;
  if (queriesNeeded > plan.queryIndex.length) {
    plan.queryIndex = grown(plan.queryIndex, queriesNeeded);
    plan.visible = grown(plan.visible, queriesNeeded);
  }
  if (plan.keyCount + keys > plan.keyIndex.length) plan.keyIndex = grown(plan.keyIndex, plan.keyCount + keys);
  if ((plan.groupCount + 1) * GROUP_FIELDS > plan.groups.length) {
    const groups = new BigInt64Array(plan.groups.length * 2);
    groups.set(plan.groups);
    plan.groups = groups;
  }
}

function grown(array: Int32Array, needed: number): Int32Array {
  const larger = new Int32Array(Math.max(needed, array.length * 2));
  larger.set(array);
  return larger;
}
