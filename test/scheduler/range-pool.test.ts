import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { RangePool } from '../../src/scheduler/range-pool.js';

test('rows are taken from the first range that is long enough', () => {
  const pool = new RangePool(10);
  assert.deepEqual([pool.take(3), pool.take(2), pool.take(4)], [0, 3, 5]);
  assert.deepEqual([pool.rowsUsed, pool.longest], [9, 1]);
  pool.give(3, 2);
  assert.equal(pool.take(3), null, 'three are free, but not side by side');
  assert.equal(pool.rowsUsed, 7, 'a refused take takes nothing');
  assert.deepEqual([pool.take(1), pool.take(1), pool.take(1), pool.take(1)], [3, 4, 9, null]);
});

test('neighbours are merged, from whichever side they come', () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
  ]) {
    const pool = new RangePool(6);
    for (let i = 0; i < 3; i++) pool.take(2);
    for (const part of order) pool.give(2 * part, 2);
    assert.deepEqual([pool.longest, pool.take(6)], [6, 0], `given back in the order ${order}`);
  }
});

test('rows given back twice, in part or beyond the end are a defect, and nothing changes', () => {
  const pool = new RangePool(8);
  pool.take(6);
  pool.give(2, 2);
  for (const [start, count] of [
    [2, 2],
    [1, 2],
    [3, 2],
    [0, 6],
    [6, 1],
    [5, 4],
  ] as const)
    assert.throws(() => pool.give(start, count), /given back twice/, `${count} rows from ${start}`);
  assert.deepEqual([pool.rowsUsed, pool.longest], [4, 2]);
});

test('rows beyond the end are a defect too where no free range is in their way', () => {
  const pool = new RangePool(8);
  pool.take(8);
  assert.throws(() => pool.give(6, 4), /given back twice/);
  assert.deepEqual([pool.rowsUsed, pool.longest], [8, 0]);
});

test('whatever is taken and given back: no row has two owners, a take fails only for want of a range, all of it merges again', () => {
  const actions = fc.array(
    fc.record({ count: fc.integer({ min: 1, max: 12 }), gives: fc.boolean(), which: fc.nat() }),
    {
      maxLength: 80,
    },
  );
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), actions, (capacity, list) => {
      const pool = new RangePool(capacity);
      const owner = new Int32Array(capacity).fill(-1);
      const held: { id: number; start: number; count: number }[] = [];
      list.forEach(({ count, gives, which }, id) => {
        if (gives && held.length > 0) {
          const [{ start, count: rows }] = held.splice(which % held.length, 1) as [(typeof held)[number]];
          owner.fill(-1, start, start + rows);
          pool.give(start, rows);
        } else {
          const free = owner.reduce((runs, who) => (who < 0 ? `${runs}.` : `${runs}|`), '').split('|');
          const longest = Math.max(...free.map(({ length }) => length));
          assert.equal(pool.longest, longest);
          const start = pool.take(count);
          assert.equal(start === null, count > longest);
          if (start === null) return;
          assert.ok(start >= 0 && start + count <= capacity);
          assert.ok(
            owner.subarray(start, start + count).every((who) => who < 0),
            'all of them were free',
          );
          owner.fill(id, start, start + count);
          held.push({ id, start, count });
        }
        assert.equal(
          pool.rowsUsed,
          owner.reduce((used, who) => (who < 0 ? used : used + 1), 0),
        );
      });
      for (const { start, count } of held) pool.give(start, count);
      assert.deepEqual([pool.rowsUsed, pool.longest, pool.take(capacity)], [0, capacity, 0]);
    }),
    { numRuns: 300 },
  );
});
