/** Blocks of long texts: who runs next, in which length, and what is left behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { SpanLane, type SpanLimits, SpanScheduler } from '../../src/scheduler/span-scheduler.js';

const LIMITS: SpanLimits = { lanesMax: 4, rowsMax: 64, blockTokens: 32 };

function lane(jobId: number, length: number, keep = false): SpanLane {
  const ids = Int32Array.from({ length }, (_, i) => i % 256);
  return new SpanLane(
    { jobId, index: 0, ids, topCount: 0, spanCap: null, reach: 64, blocksAhead: null },
    10,
    null,
    keep,
  );
}

/** Runs to the end; returns the plans as [block, jobs]. */
function run(scheduler: SpanScheduler): [number, number[]][] {
  const plans: [number, number[]][] = [];
  for (let plan = scheduler.schedule(); plan !== null; plan = scheduler.schedule()) {
    plans.push([plan.blockTokens, plan.lanes.map(({ request }) => request.jobId)]);
    scheduler.apply(plan);
  }
  return plans;
}

test('a text advances in blocks, its tail padded to a whole unit', () => {
  const scheduler = new SpanScheduler(LIMITS);
  scheduler.submit(lane(1, 32 + 32 + 5));
  assert.deepEqual(run(scheduler), [
    [32, [1]],
    [32, [1]],
    [32, [1]],
  ]);
  assert.equal(scheduler.slotsUsed, 0);
});

test('lanes of the same block length share a step, as many as rowsMax allows', () => {
  const scheduler = new SpanScheduler(LIMITS);
  for (const id of [1, 2, 3]) scheduler.submit(lane(id, 32));
  assert.deepEqual(run(scheduler), [
    [32, [1, 2]],
    [32, [3]],
  ]);
});

test('a short text that arrives runs in the next step, whatever a long one still has to do', () => {
  const scheduler = new SpanScheduler(LIMITS);
  scheduler.submit(lane(1, 320));
  const first = scheduler.schedule();
  assert.ok(first);
  scheduler.apply(first);
  scheduler.submit(lane(2, 7));
  const second = scheduler.schedule();
  assert.deepEqual(
    second?.lanes.map(({ request }) => request.jobId),
    [2],
  );
});

test('long texts leave a cache free for short ones', () => {
  const scheduler = new SpanScheduler(LIMITS);
  for (const id of [1, 2, 3, 4]) scheduler.submit(lane(id, 32 * 9));
  scheduler.submit(lane(5, 3));
  const plan = scheduler.schedule();
  assert.deepEqual(
    plan?.lanes.map(({ request }) => request.jobId),
    [5],
    'the short one is in, ahead of the fourth long one',
  );
  assert.equal(scheduler.lanesRunning, 4);
  assert.equal(scheduler.lanesWaiting, 1);
});

test('a kept lane leaves its slot with whoever goes on with it', () => {
  const scheduler = new SpanScheduler(LIMITS);
  const first = lane(1, 20, true);
  scheduler.submit(first);
  run(scheduler);
  assert.equal(scheduler.slotsUsed, 1);
  const state = first.leaves(LIMITS.blockTokens);
  assert.deepEqual(state, { slot: first.slot, position: 20, tail: first.request.ids, beforeId: 10 });
  const ids = Int32Array.of(20, 21);
  const next = new SpanLane(
    { jobId: 2, index: 0, ids, topCount: 0, spanCap: null, reach: 64, blocksAhead: null },
    10,
    state,
    false,
  );
  // The 20 tokens before are computed again, in a unit of the same shape as theirs.
  assert.deepEqual([next.startsAt, next.startId, next.repeated, next.left], [0, 10, 20, 22]);
  scheduler.submit(next);
  run(scheduler);
  assert.equal(next.slot, first.slot);
  assert.equal(scheduler.slotsUsed, 0);
});

test('the parts of a session are cut into whole units from its beginning: what is not a whole one is computed again', () => {
  const scheduler = new SpanScheduler(LIMITS);
  const first = lane(1, 40, true);
  scheduler.submit(first);
  assert.deepEqual(run(scheduler), [
    [32, [1]],
    [32, [1]],
  ]);
  const state = first.leaves(LIMITS.blockTokens);
  const tail = Int32Array.from({ length: 8 }, (_, i) => 32 + i);
  assert.deepEqual(state, { slot: first.slot, position: 40, tail, beforeId: 31 });
  const request = { jobId: 2, index: 0, topCount: 0, spanCap: null, reach: 64, blocksAhead: null };
  const last = new SpanLane({ ...request, ids: Int32Array.of(40, 41) }, 10, state, false);
  assert.deepEqual([last.startsAt, last.startId, last.repeated], [32, 31, 8]);
  assert.deepEqual([...last.request.ids], [...tail, 40, 41]);
  scheduler.submit(last);
  assert.deepEqual(run(scheduler), [[32, [2]]], 'ten tokens, in a unit as long as those of the whole');
  assert.equal(scheduler.slotsUsed, 0);
});

test('a part that may be continued has the units of a long text, however short it is', () => {
  const scheduler = new SpanScheduler(LIMITS);
  scheduler.submit(lane(1, 5, true));
  scheduler.submit(lane(2, 5));
  assert.deepEqual(run(scheduler), [
    [32, [1]],
    [16, [2]],
  ]);
});

test('an aborted job gives its slots back, also one that waits to go on with a session', () => {
  const scheduler = new SpanScheduler(LIMITS);
  const kept = lane(1, 5, true);
  scheduler.submit(kept);
  run(scheduler);
  const request = {
    jobId: 2,
    index: 0,
    ids: Int32Array.of(1),
    topCount: 0,
    spanCap: null,
    reach: 64,
    blocksAhead: null,
  };
  scheduler.submit(new SpanLane(request, 10, kept.leaves(LIMITS.blockTokens), true));
  scheduler.submit(lane(3, 100));
  scheduler.abort(2);
  scheduler.schedule();
  scheduler.abort(3);
  assert.equal(scheduler.slotsUsed, 0);
  assert.equal(scheduler.schedule(), null);
});

test('any texts: each is covered once, in order, within the limits, and its blocks do not depend on the others', () => {
  const texts = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(texts, (lengths) => {
      const scheduler = new SpanScheduler(LIMITS);
      const blocks = lengths.map((): number[] => []);
      lengths.forEach((length, id) => {
        scheduler.submit(lane(id, length));
      });
      for (let plan = scheduler.schedule(); plan !== null; plan = scheduler.schedule()) {
        assert.ok(plan.lanes.length * plan.blockTokens <= Math.max(LIMITS.rowsMax, LIMITS.blockTokens));
        assert.ok(scheduler.slotsUsed <= LIMITS.lanesMax);
        for (const { request } of plan.lanes) blocks[request.jobId]?.push(plan.blockTokens);
        scheduler.apply(plan);
      }
      lengths.forEach((length, id) => {
        const whole = Math.floor(length / LIMITS.blockTokens);
        const rest = length % LIMITS.blockTokens;
        // Of a text shorter than a unit the one block is as long as the text, else the last one is a whole unit.
        const tail = length < 32 ? Math.ceil(rest / 16) * 16 : 32;
        const expected = [...new Array(whole).fill(LIMITS.blockTokens), ...(rest > 0 ? [tail] : [])];
        assert.deepEqual(blocks[id], expected);
      });
      assert.equal(scheduler.slotsUsed, 0);
    }),
  );
});

test('a lane whose reader is behind waits, whoever else runs; what is taken lets it go on', () => {
  const scheduler = new SpanScheduler(LIMITS);
  const ids = new Int32Array(32 * 5);
  const request = { jobId: 1, index: 0, ids, topCount: 0, spanCap: null, reach: 64, blocksAhead: 2 };
  scheduler.submit(new SpanLane(request, 10, null, false));
  assert.equal(run(scheduler).length, 2, 'two blocks ahead, and no more');
  assert.equal(scheduler.slotsUsed, 1, 'its cache stays');
  scheduler.submit(lane(2, 20));
  assert.deepEqual(run(scheduler), [[32, [2]]]);
  scheduler.taken(1, 0);
  scheduler.taken(9, 0);
  assert.deepEqual(run(scheduler), [[32, [1]]]);
  scheduler.taken(1, 0);
  scheduler.taken(1, 0);
  assert.equal(run(scheduler).length, 2);
  assert.equal(scheduler.slotsUsed, 0);
});

test('lanes of different reach never share a step: their windows have different lengths', () => {
  const scheduler = new SpanScheduler(LIMITS);
  for (const [jobId, reach] of [
    [1, 64],
    [2, 16],
    [3, 64],
  ] as const) {
    const request = { jobId, index: 0, ids: new Int32Array(32), topCount: 0, spanCap: null, reach, blocksAhead: null };
    scheduler.submit(new SpanLane(request, 10, null, false));
  }
  assert.deepEqual(run(scheduler), [
    [32, [1, 3]],
    [32, [2]],
  ]);
});

test('an abort meets the lanes of its own job, waiting and running', () => {
  const scheduler = new SpanScheduler({ ...LIMITS, lanesMax: 2 });
  for (const id of [1, 2, 3, 4]) scheduler.submit(lane(id, 40));
  const plan = scheduler.schedule();
  assert.ok(plan !== null);
  scheduler.apply(plan);
  scheduler.abort(1);
  scheduler.abort(3);
  assert.deepEqual([scheduler.lanesRunning, scheduler.lanesWaiting, scheduler.slotsUsed], [1, 1, 1]);
  const jobs = new Set(run(scheduler).flatMap(([, ids]) => ids));
  assert.deepEqual([...jobs].sort(), [2, 4]);
  assert.equal(scheduler.slotsUsed, 0);
});

test('a reader lets go on the lane that it reads, and no other of its job', () => {
  const scheduler = new SpanScheduler({ ...LIMITS, rowsMax: 32 });
  for (const index of [0, 1]) {
    const request = { jobId: 1, index, topCount: 0, spanCap: null, reach: 64, blocksAhead: 1 };
    scheduler.submit(new SpanLane({ ...request, ids: new Int32Array(64) }, 10, null, false));
  }
  assert.equal(run(scheduler).length, 2, 'a block of each');
  scheduler.taken(1, 1);
  const plan = scheduler.schedule();
  assert.deepEqual(
    plan?.lanes.map(({ request }) => request.index),
    [1],
  );
});

test('long is what has more than eight blocks; what is not leaves long texts their share', () => {
  const admitted = (lengths: readonly number[], then: readonly number[] = []) => {
    const scheduler = new SpanScheduler(LIMITS);
    for (const [id, length] of lengths.entries()) scheduler.submit(lane(id, length));
    scheduler.schedule();
    if (then.length === 0) return scheduler.lanesRunning;
    for (const [id, length] of then.entries()) scheduler.submit(lane(10 + id, length));
    scheduler.schedule();
    return scheduler.lanesRunning;
  };
  assert.equal(admitted([256, 256, 256, 256]), 4, 'eight blocks each');
  assert.equal(admitted([257, 257, 257, 257]), 3);
  assert.equal(admitted([20, 257, 257, 257]), 4, 'a short one is none of the three');
  assert.equal(admitted([20], [257, 257, 257]), 4, 'nor when it came before');
  assert.equal(admitted([257, 257, 257], [257]), 3, 'those that run count');
});

test('a session goes on in its own cache when all of them are taken', () => {
  const scheduler = new SpanScheduler({ ...LIMITS, lanesMax: 1 });
  const kept = lane(1, 5, true);
  scheduler.submit(kept);
  run(scheduler);
  const request = { jobId: 2, index: 0, topCount: 0, spanCap: null, reach: 64, blocksAhead: null };
  scheduler.submit(lane(3, 5));
  const state = kept.leaves(LIMITS.blockTokens);
  scheduler.submit(new SpanLane({ ...request, ids: Int32Array.of(1) }, 10, state, false));
  assert.deepEqual(run(scheduler), [
    [32, [2]],
    [16, [3]],
  ]);
});

test('a lane without tokens is a defect of the caller', () => {
  assert.throws(() => new SpanScheduler(LIMITS).submit(lane(1, 0)), /without tokens/);
});
