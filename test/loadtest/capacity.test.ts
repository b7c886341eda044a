import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findCapacity, judge, requestsNeeded, wilson } from '../../loadtest/capacity.js';

test('the ends of the interval are the shares from which the one seen is 1.645 deviations away (Wilson 1927)', () => {
  const { low, high } = wilson(10, 100);
  for (const share of [low, high]) {
    const deviation = Math.sqrt((share * (1 - share)) / 100);
    assert.ok(Math.abs(Math.abs(share - 0.1) / deviation - 1.645) < 1e-9, `${share}`);
  }
  assert.equal(wilson(0, 50).low, 0);
});

test('as many requests as needed decide, fewer do not', () => {
  const needed = requestsNeeded(0.01);
  assert.equal(judge(0, needed, 0.01), 'within');
  assert.equal(judge(0, needed - 10, 0.01), 'undecided');
  assert.equal(judge(needed / 10, needed, 0.01), 'beyond');
});

test('bisection ends beside the rate at which requests begin to be late', async () => {
  for (const limit of [3.3, 17, 40, 160]) {
    const { withinPerSecond, beyondPerSecond } = await findCapacity({
      guessPerSecond: 40,
      tolerance: 0.07,
      lateMax: 0.01,
      probe: async (perSecond, requests) => ({ requests, late: perSecond <= limit ? 0 : requests / 5 }),
    });
    assert.ok(withinPerSecond !== null && beyondPerSecond !== null);
    assert.ok(withinPerSecond <= limit && beyondPerSecond > limit, `${withinPerSecond} ${beyondPerSecond}`);
    assert.ok(beyondPerSecond / withinPerSecond <= 1.07);
  }
});

test('a server that is always late has no capacity; what stays undecided is tried twice and then counts as beyond', async () => {
  const asked: number[] = [];
  const search = { guessPerSecond: 40, tolerance: 0.07, lateMax: 0.01 };
  const never = await findCapacity({ ...search, probe: async (_, requests) => ({ requests, late: requests }) });
  assert.equal(never.withinPerSecond, null);
  const torn = await findCapacity({
    ...search,
    probe: async (perSecond, requests) => {
      asked.push(perSecond);
      return { requests, late: 2 };
    },
  });
  assert.equal(torn.withinPerSecond, null);
  assert.equal(asked.filter((rate) => rate === asked[0]).length, 2);
});
