/** The tables are decoded as RaggedAttention (export/functions.py) reads them, and compared with what each row may see. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { AttentionPlan, GROUP_FIELDS, planAttention, planFullAttention } from '../../src/scheduler/attention-plan.js';
import { Lane } from '../../src/scheduler/lane.js';

const WIDTH = 512;
const BUDGET = { maxSteps: 8, minSteps: 1, threshold: 0.99 };
let nextSlot = 0;

/** A lane of which only these positions run; its slots lie anywhere in the pools. */
function laneWith(length: number, active: readonly number[]): Lane {
  const request = { jobId: 0, index: 0, ids: new Int32Array(length), scoreFrom: 0, topCount: 0, budget: BUDGET };
  const lane = new Lane(request);
  lane.active.set(active);
  lane.activeCount = active.length;
  lane.slots = Int32Array.from({ length }, (_, i) => nextSlot + length - 1 - i);
  nextSlot = (nextSlot + length) % 100_000;
  return lane;
}

/** Lanes of any length with any non-empty set of active positions: all, few, dense at one end. */
const laneArbitrary: fc.Arbitrary<Lane> = fc
  .record({
    length: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 512 })),
    density: fc.constantFrom(0.01, 0.2, 0.6, 1, 1),
    salt: fc.nat(),
    from: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ length, density, salt, from }) => {
    const first = Math.floor(from * from * length);
    const active: number[] = [];
    for (let i = first; i < length; i++) {
      const draw = (Math.imul(i + 1, 2654435761) ^ Math.imul(salt + 1, 40503)) >>> 0;
      if ((draw % 1000) / 1000 < density) active.push(i);
    }
    return laneWith(length, active.length > 0 ? active : [length - 1]);
  });
const lanesArbitrary = fc.array(laneArbitrary, { minLength: 1, maxLength: 12 });

function planned(lanes: readonly Lane[], plan = new AttentionPlan(16)): AttentionPlan {
  planAttention(lanes, WIDTH, plan);
  return plan;
}

interface Group {
  readonly units: number;
  readonly queries: number;
  readonly keys: number;
  readonly firstQuery: number;
  readonly firstKey: number;
}

/** The 17 columns: u 1 m | u 1 n | u 1 m 1 | u*m h*dh | first and end of queries | first and end of keys | n. */
function decodeGroups(plan: AttentionPlan): Group[] {
  const groups: Group[] = [];
  let query = 0;
  let key = 0;
  for (let g = 0; g < plan.groupCount; g++) {
    const fields = Array.from(plan.groups.subarray(g * GROUP_FIELDS, (g + 1) * GROUP_FIELDS), Number);
    const [units, , queries, , , keys] = fields as [number, number, number, number, number, number];
    const expected = [
      ...[units, 1, queries],
      ...[units, 1, keys],
      ...[units, 1, queries, 1],
      ...[units * queries, WIDTH],
      ...[query, query + units * queries],
      ...[key, key + units * keys],
      keys,
    ];
    assert.deepEqual(fields, expected, `columns of group ${g}`);
    groups.push({ units, queries, keys, firstQuery: query, firstKey: key });
    query += units * queries;
    key += units * keys;
  }
  assert.equal(query, plan.queryCount, 'the groups cover all queries');
  assert.equal(key, plan.keyCount, 'the groups cover all keys');
  return groups;
}

interface Answer {
  /** Row of the step's active rows. */
  readonly row: number;
  readonly visible: number;
  /** Slots of the unit's keys, padding included. */
  readonly keys: readonly number[];
}

/** What the graph would compute for each padded query, in the order of its answers. */
function decodeAnswers(plan: AttentionPlan): Answer[] {
  const answers: Answer[] = [];
  for (const { units, queries, keys, firstQuery, firstKey } of decodeGroups(plan)) {
    for (let unit = 0; unit < units; unit++) {
      const start = firstKey + unit * keys;
      const unitKeys = Array.from(plan.keyIndex.subarray(start, start + keys));
      for (let i = 0; i < queries; i++) {
        const at = firstQuery + unit * queries + i;
        answers.push({ row: plan.queryIndex[at] as number, visible: plan.visible[at] as number, keys: unitKeys });
      }
    }
  }
  return answers;
}

/** `seen`: how many positions of a lane one of its positions sees. */
function assertAnswersAll(
  lanes: readonly Lane[],
  plan: AttentionPlan,
  seen: (lane: Lane, position: number) => number = (_, position) => position + 1,
): void {
  const answers = decodeAnswers(plan);
  const used = new Set<number>();
  let row = 0;
  let useful = 0;
  for (const lane of lanes) {
    for (let i = 0; i < lane.activeCount; i++, row++) {
      const position = lane.active[i] as number;
      const at = plan.row[row] as number;
      const answer = answers[at];
      assert.ok(answer !== undefined && !used.has(at), `row ${row} has an answer of its own`);
      used.add(at);
      assert.equal(answer.row, row, 'the answer is to that row');
      const visible = seen(lane, position);
      assert.equal(answer.visible, visible, 'it sees the positions it may see');
      const slots = Array.from(lane.slots.subarray(0, visible));
      assert.deepEqual(answer.keys.slice(0, visible), slots, 'its keys are those positions, in order');
      useful += visible;
    }
  }
  const slots = new Set(lanes.flatMap((lane) => Array.from(lane.slots)));
  for (const { row: asked, visible, keys } of answers) {
    assert.ok(asked >= 0 && asked < row, 'padding asks for a row that exists');
    assert.ok(visible >= 1 && visible <= keys.length, 'every query sees at least one key: its softmax is defined');
    assert.ok(
      keys.every((slot) => slots.has(slot)),
      'padding reads slots of the running lanes only',
    );
  }
  assert.equal(plan.keysUseful, useful);
  assert.equal(
    plan.keysComputed,
    decodeGroups(plan).reduce((sum, g) => sum + g.units * g.queries * g.keys, 0),
  );
}

function groupsOf(plan: AttentionPlan) {
  return decodeGroups(plan).map(({ units, queries, keys }) => ({ units, queries, keys }));
}

test('the lane of the drawing: three units over 64, 128 and 192 keys', () => {
  const plan = planned([laneWith(140, [...Array.from({ length: 128 }, (_, i) => i), 137, 138, 139])]);
  assert.deepEqual(groupsOf(plan), [
    { units: 1, queries: 64, keys: 64 },
    { units: 1, queries: 64, keys: 128 },
    { units: 1, queries: 3, keys: 192 },
  ]);
});

test('a single query of a causal lane is computed as two: alone it would be summed in another order than among others', () => {
  assert.deepEqual(groupsOf(planned([laneWith(40, [39])])), [{ units: 1, queries: 2, keys: 48 }]);
  const plan = planned([laneWith(2, [0, 1]), laneWith(2, [1]), laneWith(3, [0, 1, 2]), laneWith(1, [0])]);
  assert.deepEqual(groupsOf(plan), [{ units: 4, queries: 3, keys: 16 }]);
});

test('where positions see each other in both directions a single query never shares a group with longer units', () => {
  const plan = new AttentionPlan(16);
  const lanes = [laneWith(2, [0, 1]), laneWith(2, [1]), laneWith(3, [0, 1, 2]), laneWith(1, [0])];
  planFullAttention(lanes, WIDTH, plan);
  assert.deepEqual(groupsOf(plan), [
    { units: 2, queries: 3, keys: 16 },
    { units: 2, queries: 1, keys: 16 },
  ]);
});

test('every active row is answered once, over the right keys', () => {
  fc.assert(
    fc.property(lanesArbitrary, (lanes) => assertAnswersAll(lanes, planned(lanes))),
    { numRuns: 300 },
  );
});

test('in a stack that sees in both directions every active row is answered once, over all positions', () => {
  fc.assert(
    fc.property(lanesArbitrary, (lanes) => {
      const plan = new AttentionPlan(16);
      planFullAttention(lanes, WIDTH, plan);
      assertAnswersAll(lanes, plan, (lane) => lane.length);
    }),
    { numRuns: 100 },
  );
});

test('a plan used again, whatever it held, is the plan of a new one', () => {
  const reused = new AttentionPlan(4);
  fc.assert(
    fc.property(lanesArbitrary, (lanes) => {
      planAttention(lanes, WIDTH, reused);
      assertAnswersAll(lanes, reused);
      const fresh = planned(lanes);
      for (const [field, count] of [
        ['queryIndex', fresh.queryCount],
        ['visible', fresh.queryCount],
        ['keyIndex', fresh.keyCount],
      ] as const) {
        assert.deepEqual(reused[field].subarray(0, count), fresh[field].subarray(0, count), field);
      }
    }),
    { numRuns: 100 },
  );
});

test('padding the queries of a group wastes less than half, but for single ones, and leaves none alone', () => {
  fc.assert(
    fc.property(lanesArbitrary, (lanes) => {
      const plan = planned(lanes);
      const answered = new Set(
        Array.from(
          plan.row.subarray(
            0,
            lanes.reduce((sum, l) => sum + l.activeCount, 0),
          ),
        ),
      );
      for (const { units, queries, firstQuery } of decodeGroups(plan)) {
        for (let unit = 0; unit < units; unit++) {
          const first = firstQuery + unit * queries;
          const real = Array.from({ length: queries }, (_, i) => first + i).filter((at) => answered.has(at)).length;
          assert.ok(Math.max(2, real) * 2 > queries, `${real} of ${queries} queries`);
          assert.ok(queries > 1, 'a single query');
        }
      }
    }),
    { numRuns: 200 },
  );
});

/** For each row of a lane: its unit (rows that share one have equal first answers) and the unit's keys. */
function layout(lanes: readonly Lane[], lane: Lane): { readonly unit: number; readonly keys: readonly number[] }[] {
  const plan = planned(lanes);
  const answers = decodeAnswers(plan);
  const groups = decodeGroups(plan);
  const before = lanes.slice(0, lanes.indexOf(lane)).reduce((sum, { activeCount }) => sum + activeCount, 0);
  const units: number[] = [];
  return Array.from({ length: lane.activeCount }, (_, i) => {
    const at = plan.row[before + i] as number;
    const group = groups.find((g) => at >= g.firstQuery && at < g.firstQuery + g.units * g.queries) as Group;
    const start = at - ((at - group.firstQuery) % group.queries);
    if (!units.includes(start)) units.push(start);
    return { unit: units.indexOf(start), keys: (answers[at] as Answer).keys };
  });
}

test('how a lane is cut and padded does not depend on the other lanes', () => {
  fc.assert(
    fc.property(fc.array(laneArbitrary, { minLength: 2, maxLength: 8 }), (lanes) => {
      for (const lane of lanes) assert.deepEqual(layout(lanes, lane), layout([lane], lane));
    }),
    { numRuns: 150 },
  );
});

test('keys come in few sizes, multiples of 16, and no more than the last query needs', () => {
  fc.assert(
    fc.property(laneArbitrary, (lane) => {
      const last = (lane.active[lane.activeCount - 1] as number) + 1;
      for (const { keys } of decodeGroups(planned([lane]))) {
        assert.equal(keys % (keys <= 64 ? 16 : keys <= 128 ? 32 : 64), 0);
        assert.ok(keys < last + 64, `${keys} keys for ${last} positions`);
      }
    }),
  );
});

test('halting a position never changes the padding of the keys that remain visible to the last one', () => {
  fc.assert(
    fc.property(laneArbitrary, fc.nat(), (lane, which) => {
      const keysOfLast = (l: Lane) => layout([l], l).at(-1)?.keys.length;
      const active = Array.from(lane.active.subarray(0, lane.activeCount));
      if (active.length < 2) return;
      const fewer = laneWith(lane.length, active.toSpliced(which % (active.length - 1), 1));
      assert.equal(keysOfLast(fewer), keysOfLast(lane));
    }),
  );
});
