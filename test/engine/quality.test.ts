import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DepthBook, grantedSteps } from '../../src/engine/quality.js';
import { EMPTY_TELEMETRY } from './score-loop.js';

const STAGE = {
  model: 'm',
  stage: 'score',
  ...{ steps: 1, computeSeconds: 0, hostSeconds: 0, activeRows: 0, renewedRows: 0, keysUseful: 0, keysComputed: 0 },
  ...{ rowsPerStep: [], paddedRows: 0, remainderTenths: [], remainderSum: 0 },
} as const;
const halted = (...haltedAtStep: number[]) => ({ ...EMPTY_TELEMETRY, stages: [{ ...STAGE, haltedAtStep }] });

test('mean depth under a cap, from what halted; the past fades by what halts', () => {
  const depths = new DepthBook();
  assert.equal(depths.meanUnder('m', 4), 4, 'nothing learnt: the cap');
  depths.observe(halted(0, 10, 20, 10));
  assert.equal(depths.meanUnder('m', 8), 2);
  assert.equal(depths.meanUnder('m', 2), (10 + 2 * 30) / 40);
  depths.observe(halted(0, 0, 0, 0));
  assert.equal(depths.meanUnder('m', 8), 2);
  depths.observe(halted(0, 0, 0, 20_000));
  assert.ok(depths.meanUnder('m', 8) > 2.99);
});

test('without pressure all steps; under pressure the most that meet the target, never fewer than the floor', () => {
  const mean = (cap: number) => Math.min(cap, 4);
  const grant = (waitMs: number, floor = 2) => grantedSteps({ waitMs, aloneMs: 20, targetMs: 100 }, floor, 8, mean);
  assert.equal(grant(0), 8);
  assert.equal(grant(80), 8);
  // 120 ms at depth 4: 90 at depth 3.
  assert.equal(grant(100), 3);
  assert.equal(grant(180), 2);
  assert.equal(grant(10_000), 2);
  assert.equal(grant(10_000, 5), 5);
  assert.equal(grant(10_000, 12), 8, 'a floor above the maximum is no floor');
});
