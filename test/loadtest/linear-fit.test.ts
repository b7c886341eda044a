import assert from 'node:assert/strict';
import { test } from 'node:test';
import { linearFit } from '../../loadtest/linear-fit.js';

test('a line through points', () => {
  const line = linearFit([
    [1000, 5],
    [2000, 7],
    [3000, 9],
  ]);
  assert.ok(Math.abs(line.slope - 0.002) < 1e-12 && Math.abs(line.intercept - 3) < 1e-9);
  assert.throws(() => linearFit([[1, 2]]), RangeError);
});
