import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SlotPool } from '../../src/scheduler/slot-pool.js';

test('a new pool gives its first rows first', () => {
  const pool = new SlotPool(4);
  assert.equal(pool.available, 4);
  assert.deepEqual(Array.from(pool.take(4)).sort(), [0, 1, 2, 3]);
  assert.equal(pool.available, 0);
});

test('rows given back are the next to be taken', () => {
  const pool = new SlotPool(8);
  const first = pool.take(3);
  pool.take(2);
  pool.give(first);
  assert.deepEqual(pool.take(3), first);
});

test('asking for more than is free, or giving back too much, is a defect', () => {
  const pool = new SlotPool(2);
  assert.throws(() => pool.take(3), /3 rows asked of 2 free/);
  assert.equal(pool.available, 2, 'a refused take takes nothing');
  const slots = pool.take(2);
  pool.give(slots);
  assert.throws(() => pool.give(slots), /given back twice/);
});

test('nothing is asked: nothing is taken', () => {
  const pool = new SlotPool(0);
  assert.equal(pool.take(0).length, 0);
  pool.give(new Int32Array(0));
  assert.equal(pool.available, 0);
});

test('whatever is taken and given back, no row has two owners and none is lost', () => {
  const actions = fc.array(fc.record({ count: fc.nat(12), gives: fc.boolean(), which: fc.nat() }), { maxLength: 60 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), actions, (capacity, list) => {
      const pool = new SlotPool(capacity);
      const taken: Int32Array[] = [];
      for (const { count, gives, which } of list) {
        if (gives && taken.length > 0) pool.give(taken.splice(which % taken.length, 1)[0] as Int32Array);
        else if (count <= pool.available) taken.push(pool.take(count));
        const held = taken.flatMap((slots) => Array.from(slots));
        assert.equal(new Set(held).size, held.length);
        assert.ok(held.every((slot) => slot >= 0 && slot < capacity));
        assert.equal(held.length + pool.available, capacity);
      }
      for (const slots of taken) pool.give(slots);
      assert.deepEqual(
        Array.from(pool.take(capacity)).sort((a, b) => a - b),
        Array.from({ length: capacity }, (_, i) => i),
      );
    }),
  );
});
