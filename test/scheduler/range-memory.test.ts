import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RangeMemory } from '../../src/scheduler/range-memory.js';

test('rows of one take lie next to each other, and what is in use is known', () => {
  const memory = new RangeMemory(10);
  assert.deepEqual([...memory.take(3)], [0, 1, 2]);
  assert.deepEqual([...memory.take(4)], [3, 4, 5, 6]);
  assert.deepEqual([memory.used, memory.available], [7, 3]);
});

test('free rows elsewhere are of no use: more than lies together is a defect of the caller, and takes nothing', () => {
  const memory = new RangeMemory(10);
  const first = memory.take(4);
  memory.take(2);
  memory.give(first);
  assert.deepEqual([memory.used, memory.available], [2, 4], 'eight are free, four here and four there');
  assert.throws(() => memory.take(5), /5 asked, 4 lie together/);
  assert.deepEqual([memory.used, memory.available], [2, 4]);
  assert.deepEqual([...memory.take(4)], [0, 1, 2, 3]);
});

test('a lane that left no memory has none to give back', () => {
  const memory = new RangeMemory(4);
  memory.take(2);
  memory.give(new Int32Array(0));
  assert.deepEqual([memory.used, memory.available], [2, 2]);
});
