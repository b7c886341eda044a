/** The tables of a decoder step against the tree of prefixes, over sentences that fork, halt and leave at random. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeLayout, fillDecodeTables } from '../../src/families/decode-tables.js';
import { PrefixKeys } from '../../src/families/prefix-keys.js';
import { ROW_FIELDS } from '../../src/families/resident-stack.js';
import { candidatesPerHypothesis } from '../../src/scheduler/beam.js';
import { type DecodeAdvancePlan, DecodeScheduler } from '../../src/scheduler/decode-scheduler.js';
import { type Random, withSeed } from '../seed.js';

const SEED = 'PONDER_DECODE_TABLES_SEED';
const MAX_STEPS = 5;
const CONTEXT = 20;
const ROWS = 96;
const EOS = 2;

const prefixKeys = () => new PrefixKeys(2 * ROWS, CONTEXT, MAX_STEPS);

function fill(plan: DecodeAdvancePlan, keys: PrefixKeys) {
  const layout = decodeLayout({ rows: ROWS, others: ROWS });
  const table = new Int32Array(layout.keys + ROWS * CONTEXT).fill(-7);
  const thresholds = new Float32Array(ROWS);
  return { layout, table, thresholds, filled: fillDecodeTables(plan, layout, keys, table, thresholds) };
}

function assertTables(plan: DecodeAdvancePlan, keys: PrefixKeys): void {
  const { layout, table, thresholds, filled } = fill(plan, keys);
  let first = 0;
  plan.active.forEach(({ node, slot, steps, sentence }, row) => {
    const { budget, memoryRows } = sentence.request;
    const count = node.position + 1;
    const expected = [slot, node.rows[steps], node.position, steps + 1, first, count, 0];
    const at = row * ROW_FIELDS;
    assert.deepEqual(
      Array.from(table.subarray(at, at + ROW_FIELDS)),
      [...expected, budget.maxSteps * 256 + budget.minSteps],
      `row ${row}`,
    );
    const wanted = new Int32Array(count);
    node.keyRows(steps + 1, wanted);
    assert.deepEqual(table.subarray(layout.keys + first, layout.keys + first + count), wanted, `keys of row ${row}`);
    const seen = Array.from(table.subarray(layout.seen + 2 * row, layout.seen + 2 * row + 2));
    assert.deepEqual(seen, [memoryRows[0], memoryRows.length]);
    assert.equal(table[layout.slots + row], slot);
    assert.equal(thresholds[row], Math.fround(budget.threshold));
    first += count;
  });
  assert.equal(filled.keys, first);
  assert.ok(filled.count >= layout.keys + first);
  for (let row = plan.active.length; row < ROWS; row++) {
    assert.equal(table[row * ROW_FIELDS], -1, 'what is left of a bucket is padding');
    assert.equal(table[layout.slots + row], -1);
  }
  plan.renewed.forEach(({ node, slot, step }, row) => {
    const at = layout.renewed + row * ROW_FIELDS;
    const expected = [slot, node.rows[step - 1], node.position, step];
    assert.deepEqual(Array.from(table.subarray(at, at + 4)), expected);
  });
  plan.begin.forEach(({ slot, inputId }, row) => {
    assert.deepEqual([table[layout.begin + row * ROW_FIELDS], table[layout.ids + row]], [slot, inputId]);
  });
}

function run(random: Random): number {
  const limits = { rowsMax: ROWS, cacheRowsMax: 4000 };
  const scheduler = new DecodeScheduler(limits, MAX_STEPS, 1, EOS);
  const keys = prefixKeys();
  const jobs = 40;
  for (let jobId = 0; jobId < jobs; jobId++) {
    const maxSteps = random.int(1, MAX_STEPS);
    const budget = { maxSteps, minSteps: random.int(1, maxSteps), threshold: random.next() };
    const memoryRows = Int32Array.from({ length: random.int(1, 9) }, (_, i) => 10 * jobId + i);
    const beam = random.pick([1, 1, 2, 4, 8]);
    const maxNewTokens = random.int(1, CONTEXT);
    scheduler.submit({ jobId, index: 0, memoryRows, budget, beam, lengthPenalty: 1, maxNewTokens });
  }
  let launches = 0;
  for (;;) {
    if (random.chance(0.05)) scheduler.abort(random.int(0, jobs - 1));
    const plan = scheduler.schedule();
    if (plan === null) return launches;
    if (plan.kind === 'advance') {
      const { active } = plan;
      assertTables(plan, keys);
      launches += 1;
      const halted = Uint8Array.from(active, ({ steps, sentence }) => {
        const { maxSteps, minSteps } = sentence.request.budget;
        return Number(steps + 1 === maxSteps || (steps + 1 >= minSteps && random.chance(0.4)));
      });
      scheduler.applyAdvance(plan, { halted, remainders: new Float32Array(active.length) });
      continue;
    }
    const { sentences } = plan;
    const best = sentences.map(({ request, hypotheses }) => {
      const k = candidatesPerHypothesis(request.beam);
      const ids = Int32Array.from({ length: hypotheses.length * k }, () =>
        random.chance(0.1) ? EOS : random.int(3, 99),
      );
      return { ids, logprobs: Float32Array.from(ids, () => -random.next()), k };
    });
    scheduler.applyFinish(plan, best);
  }
}

test('rows, keys and memory of every step are those of the tree of prefixes', async () => {
  const seeds = process.env[SEED] === undefined ? [1, 2, 3, 4, 5, 6, 7, 8] : [Number(process.env[SEED])];
  let launches = 0;
  for (const seed of seeds) {
    await withSeed(seed, SEED, (random) => {
      launches += run(random);
    });
  }
  assert.ok(launches > 100, `${launches} launches`);
});

test('a launch on nothing but padding reads one key and no memory', () => {
  const { layout, table, filled } = fill({ kind: 'advance', begin: [], active: [], renewed: [] }, prefixKeys());
  assert.deepEqual([filled.keys, filled.k, filled.count], [0, 1, layout.keys + 1]);
  assert.equal(table[layout.keys], 0);
  assert.deepEqual(Array.from(table.subarray(layout.seen, layout.slots)), new Array(layout.rows).fill([0, 1]).flat());
});
