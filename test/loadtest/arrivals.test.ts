import assert from 'node:assert/strict';
import { test } from 'node:test';
import { burstRate, diurnalRate, peakOf, poisson, varying } from '../../loadtest/arrivals.js';
import { Random } from '../seed.js';

test('Poisson arrivals: the seed decides them, their number and their gaps are those of the rate', () => {
  const times = poisson(new Random(1), 50, 200);
  assert.deepEqual(times, poisson(new Random(1), 50, 200));
  assert.notDeepEqual(times, poisson(new Random(2), 50, 200));
  // 10,000 expected, standard deviation 100.
  assert.ok(Math.abs(times.length - 10_000) < 400, `${times.length} arrivals`);
  const gaps = times.slice(1).map((at, i) => at - (times[i] as number));
  assert.ok(gaps.every((gap) => gap >= 0) && (times.at(-1) as number) < 200_000);
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length;
  assert.ok(Math.abs(Math.sqrt(variance) / mean - 1) < 0.05, 'exponential: deviation equals mean');
  assert.deepEqual(poisson(new Random(1), 0, 10), []);
});

test('a varying rate keeps its mean: bursts, and a day', () => {
  for (const rate of [burstRate(20, 8, 10), diurnalRate(20, 100)]) {
    const times = varying(new Random(3), rate, peakOf(rate, 100), 100);
    assert.ok(Math.abs(times.length - 2000) < 250, `${times.length} arrivals instead of 2000`);
  }
  const burst = burstRate(10, 8, 10);
  assert.ok(Math.abs(burst(0.5) / burst(5) - 8) < 1e-9);
  const inBurst = varying(new Random(4), burst, peakOf(burst, 100), 100).filter((at) => at % 10_000 < 1000).length;
  assert.ok(Math.abs(inBurst / 10 - burst(0)) < 0.3 * burst(0), `${inBurst} arrivals in ten bursts`);
  const day = diurnalRate(10, 24);
  assert.ok(day(3) < 0.4 * 10 && day(15) > 1.5 * 10, 'night and afternoon');
});
