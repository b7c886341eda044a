/** Stages that have work on some of the turns, on a clock that only turns move: who waits for how long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FairShare } from '../../src/scheduler/fair-share.js';

/** The loop's turn: asks in order, charges the first that has work. Returns who that was, or null. */
function turn(share: FairShare, hasWork: (i: number) => boolean, ms: (i: number) => number): number | null {
  for (const i of share.order()) {
    if (!hasWork(i)) {
      share.rest(i);
      continue;
    }
    share.charge(i, ms(i));
    return i;
  }
  return null;
}

const always = () => true;
const only = (stage: number) => (i: number) => i === stage;

function turns(share: FairShare, count: number, hasWork: (i: number) => boolean, ms: (i: number) => number) {
  return Array.from({ length: count }, () => turn(share, hasWork, ms));
}

test('the first turn is that of the first stage, and equal stages alternate', () => {
  assert.deepEqual(
    turns(new FairShare(3), 7, always, () => 5),
    [0, 1, 2, 0, 1, 2, 0],
  );
});

test('two saturated stages use the same time, not the same number of turns', () => {
  const cost = [9, 2];
  const served = turns(new FairShare(2), 1100, always, (i) => cost[i] as number);
  const used = [0, 1].map((stage) => served.filter((i) => i === stage).length * (cost[stage] as number));
  assert.ok(Math.abs((used[0] as number) - (used[1] as number)) <= 9, `${used}`);
});

test('a light stage is served as soon as the turn under way is over, beside a saturated one', () => {
  const share = new FairShare(2);
  turns(share, 50, only(0), () => 40);
  for (let round = 0; round < 20; round++) {
    turns(share, 3, only(0), () => 40);
    assert.equal(
      turn(share, always, () => 3),
      1,
      `round ${round}`,
    );
  }
});

test('resting is no credit: a stage that comes back takes turns with one that never rested', () => {
  const share = new FairShare(2);
  turns(share, 2, always, () => 10);
  turns(share, 1000, only(0), () => 10);
  const served = turns(share, 20, always, () => 10);
  assert.equal(served.filter((i) => i === 1).length, 10);
});

test('nor is it when all rested meanwhile: an hour of work long done does not make a stage wait', () => {
  const share = new FairShare(2);
  turns(share, 1000, only(0), () => 10);
  assert.equal(
    turn(
      share,
      () => false,
      () => 10,
    ),
    null,
  );
  turns(share, 2, only(1), () => 10);
  const served = turns(share, 20, always, () => 10);
  const shared = served.filter((i) => i === 0).length;
  assert.ok(Math.abs(shared - 10) <= 1, `${served}`);
});

test('whoever has work waits for two turns of each other stage at most, whatever came before', () => {
  const phase = fc.record({
    turns: fc.integer({ min: 1, max: 40 }),
    busy: fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
    ms: fc.array(fc.integer({ min: 0, max: 10 }), { minLength: 3, maxLength: 3 }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3 }), fc.array(phase, { minLength: 1, maxLength: 12 }), (count, phases) => {
      const share = new FairShare(count);
      const waitedMs = new Array(count).fill(0);
      for (const { turns: length, busy, ms } of phases) {
        for (let i = 0; i < length; i++) {
          const served = turn(
            share,
            (stage) => busy[stage] === true,
            (stage) => ms[stage] as number,
          );
          for (let stage = 0; stage < count; stage++) {
            if (stage === served || busy[stage] === false) waitedMs[stage] = 0;
            else waitedMs[stage] += ms[served as number] as number;
            assert.ok(waitedMs[stage] <= 20 * (count - 1), `stage ${stage} waited ${waitedMs[stage]} ms`);
          }
        }
      }
    }),
    { numRuns: 500 },
  );
});

test('a stage that rests while another works moves nothing: it goes on from where it was', () => {
  const share = new FairShare(2);
  share.charge(0, 100);
  share.charge(1, 10);
  share.rest(1);
  share.charge(1, 5);
  assert.deepEqual(share.order(), [1, 0], '15 is before 100');
});

test('when all have rested, whoever comes first has no credit for the time before', () => {
  const share = new FairShare(2);
  share.charge(0, 100);
  share.rest(0);
  share.rest(1);
  share.charge(1, 10);
  share.charge(0, 5);
  assert.deepEqual(share.order(), [0, 1], '105 is before 110');
});

test('a stage that works all the time keeps what it is behind', () => {
  const share = new FairShare(2);
  share.charge(1, 10);
  share.charge(0, 100);
  share.charge(0, 1);
  share.charge(1, 5);
  assert.deepEqual(share.order(), [1, 0], '15 is before 101');
});

test('a stage that comes back starts where the turn served last started, not at what it had used', () => {
  const share = new FairShare(3);
  share.charge(0, 10);
  share.charge(0, 90);
  share.charge(0, 50);
  share.charge(2, 1);
  assert.deepEqual(share.order(), [1, 2, 0], '101 is before 150: not 1');
  share.charge(1, 30);
  assert.deepEqual(share.order(), [2, 1, 0], '101, 130, 150');
});

test('a stage that comes starts where the others are, and one that goes leaves the rest in their order', () => {
  const share = new FairShare(2);
  turns(share, 100, always, () => 5);
  share.add();
  const served = turns(share, 30, always, () => 5);
  const ofNew = served.filter((i) => i === 2).length;
  assert.ok(ofNew >= 10 && ofNew <= 12, `${ofNew} of 30 turns`);
  share.remove(0);
  assert.deepEqual(share.order().toSorted(), [0, 1]);
  assert.equal(new Set(turns(share, 10, always, () => 5)).size, 2);
});

test('a stage that never worked has no credit either: its first turn starts at the virtual time', () => {
  const share = new FairShare(2);
  share.charge(0, 10);
  share.charge(0, 90);
  share.charge(1, 95);
  assert.deepEqual(share.order(), [0, 1], '100 is before 10 + 95');
});

test('nor has one that was added and waited for its first turn', () => {
  const share = new FairShare(1);
  share.charge(0, 10);
  share.add();
  share.charge(0, 90);
  share.charge(1, 95);
  assert.deepEqual(share.order(), [0, 1], '100 is before 10 + 95');
});
