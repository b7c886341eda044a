import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { HaltingCounts } from '../../src/scheduler/halting-counts.js';
import { HaltingHistory } from '../../src/scheduler/halting-history.js';

test('before anything has halted a position may halt at every step', () => {
  const history = new HaltingHistory(4);
  for (let step = 1; step <= 6; step++) assert.equal(history.hazard(step), 1);
});

test('the chance to halt at a step is that of those which came so far', () => {
  const history = new HaltingHistory(4);
  history.add(Uint8Array.of(1, 2, 2, 4));
  assert.deepEqual(
    [1, 2, 3, 4].map((step) => history.hazard(step)),
    [1 / 4, 2 / 3, 0, 1],
  );
  assert.equal(history.hazard(5), 1, 'nobody came so far: it may be');
  history.add(Uint8Array.of(1, 1, 1, 1));
  assert.equal(history.hazard(1), 5 / 8);
});

test('what was lately counts more: a model that changes its mind is followed', () => {
  const history = new HaltingHistory(8);
  const shallow = new Uint8Array(10_000).fill(1);
  const deep = new Uint8Array(10_000).fill(8);
  for (let i = 0; i < 8; i++) history.add(shallow);
  assert.equal(history.hazard(1), 1);
  for (let i = 0; i < 8; i++) history.add(deep);
  assert.ok(history.hazard(1) < 0.02, `${history.hazard(1)} of a past that is over`);
});

test('the past counts half each time that 20,000 positions have come, and no sooner', () => {
  const history = new HaltingHistory(2);
  history.add(new Uint8Array(20_000).fill(1));
  history.add(new Uint8Array(5_000).fill(2));
  assert.equal(history.hazard(1), 10_000 / 15_000, 'what came first counts half');
  history.add(new Uint8Array(5_000).fill(2));
  assert.equal(history.hazard(1), 10_000 / 20_000, 'and still half: 20,000 are complete just now');
  history.add(new Uint8Array(5_000).fill(2));
  assert.equal(history.hazard(1), 5_000 / 15_000);
});

test('a hazard is a probability, whatever halts and however much of it', () => {
  const depths = fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 50 });
  fc.assert(
    fc.property(fc.array(fc.tuple(depths, fc.constantFrom(1, 300)), { maxLength: 12 }), (batches) => {
      const history = new HaltingHistory(8);
      for (const [batch, times] of batches) {
        history.add(Uint8Array.from({ length: batch.length * times }, (_, i) => batch[i % batch.length] as number));
        for (let step = 1; step <= 9; step++) {
          const hazard = history.hazard(step);
          assert.ok(hazard >= 0 && hazard <= 1, `step ${step}: ${hazard}`);
        }
        assert.equal(history.hazard(Math.max(...batch)) > 0, true);
      }
    }),
    { numRuns: 100 },
  );
});

test('counts of many at once are those of each alone', () => {
  const position = fc.tuple(
    fc.integer({ min: 1, max: 8 }),
    fc.float({ min: 0, max: 1, noNaN: true }).map((remainder) => Math.abs(remainder)),
  );
  fc.assert(
    fc.property(fc.array(position, { maxLength: 60 }), (positions) => {
      const [together, alone] = [new HaltingCounts(8), new HaltingCounts(8)];
      together.addAll(
        Uint8Array.from(positions, ([step]) => step),
        Float32Array.from(positions, ([, remainder]) => remainder),
      );
      for (const [step, remainder] of positions) alone.add(step, remainder);
      assert.deepEqual(together.atStep, alone.atStep);
      assert.deepEqual(together.remainderTenths, alone.remainderTenths);
      assert.ok(Math.abs(together.remainderSum - alone.remainderSum) < 1e-6);
    }),
  );
});

test('what is taken is counted once, and stays as it was taken', () => {
  const counts = new HaltingCounts(3);
  counts.add(2, 0.25);
  const first = counts.take();
  counts.add(3, 0.5);
  const second = counts.take();
  assert.deepEqual(first.atStep, [0, 0, 1, 0]);
  assert.equal(first.remainderTenths.indexOf(1), 2);
  assert.equal(first.remainderSum, 0.25);
  assert.deepEqual(second.atStep, [0, 0, 0, 1]);
  assert.deepEqual(second.remainderTenths, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
  assert.equal(second.remainderSum, 0.5);
  assert.deepEqual(counts.take(), new HaltingCounts(3));
});
