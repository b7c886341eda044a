import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Budget } from '../../src/engine/protocol.js';
import {
  type AdvancePlan,
  type FinishPlan,
  Scheduler,
  type SchedulerLimits,
  type TimeLimits,
} from '../../src/scheduler/scheduler.js';
import { SlotPool } from '../../src/scheduler/slot-pool.js';

const LIMITS: SchedulerLimits = { rowsMax: 16, lanesMax: 4, slotsMax: 32, finishRowsMax: 8 };
const BUDGET: Budget = { maxSteps: 8, minSteps: 1, threshold: 0.99 };
const FOREVER: TimeLimits = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

function scheduler(limits: Partial<SchedulerLimits> = {}): Scheduler {
  return new Scheduler({ ...LIMITS, ...limits }, 8);
}

function submit(
  to: Scheduler,
  jobId: number,
  lengths: readonly number[],
  { budget = BUDGET, scoreFrom = 0, time = FOREVER }: { budget?: Budget; scoreFrom?: number; time?: TimeLimits } = {},
): void {
  const lanes = lengths.map((length, index) => ({
    ...{ jobId, index, scoreFrom, budget },
    ids: new Int32Array(length),
    topCount: 0,
  }));
  to.submit(jobId, lanes, time);
}

function advance(of: Scheduler): AdvancePlan {
  const plan = of.schedule();
  assert.ok(plan?.kind === 'advance', `the plan is ${plan?.kind}`);
  return plan;
}

function finish(of: Scheduler): FinishPlan {
  const plan = of.schedule();
  assert.ok(plan?.kind === 'finish', `the plan is ${plan?.kind}`);
  return plan;
}

/** Applies a step in which the rows at these places halt, all with the same remainder. */
function halt(of: Scheduler, plan: AdvancePlan, rows: 'all' | readonly number[], remainder = 0.5): void {
  const halted = new Uint8Array(plan.activeRows);
  for (const row of rows === 'all' ? halted.keys() : rows) halted[row] = 1;
  of.applyAdvance(plan, { halted, remainders: new Float32Array(plan.activeRows).fill(remainder) });
}

/** `job.lane` of a plan's lanes. */
function names(plan: AdvancePlan | FinishPlan): string[] {
  const lanes = plan.kind === 'advance' ? plan.lanes.map(({ lane }) => lane) : plan.lanes;
  return lanes.map(({ request }) => `${request.jobId}.${request.index}`);
}

test('with nothing submitted there is nothing to do', () => {
  const s = scheduler();
  assert.equal(s.schedule(), null);
  assert.equal(s.idle, true);
});

test('a lane begins, advances, is finished, and its slots are free', () => {
  const s = scheduler();
  submit(s, 1, [3]);
  assert.deepEqual([s.lanesWaiting, s.lanesRunning, s.idle], [1, 0, false]);
  const first = advance(s);
  assert.equal(first.begin.length, 1);
  assert.deepEqual([s.lanesWaiting, s.lanesRunning, s.slotsUsed], [0, 1, 3]);
  halt(s, first, [1]);
  const second = advance(s);
  assert.deepEqual([second.begin.length, second.activeRows, second.renewedRows], [0, 2, 1]);
  halt(s, second, 'all');
  const done = finish(s);
  assert.deepEqual(Array.from(done.lanes[0]?.depths ?? []), [2, 1, 2]);
  assert.equal(done.lanes[0]?.positionSteps, 5);
  s.applyFinish(done);
  assert.deepEqual([s.slotsUsed, s.idle, s.schedule()], [0, true, null]);
});

test('a lane that runs and one that is to be finished both count, and neither is idle', () => {
  const s = scheduler();
  submit(s, 1, [2, 3]);
  const first = advance(s);
  assert.equal(s.idle, false);
  halt(s, first, [0, 1]);
  assert.deepEqual([s.lanesRunning, s.slotsUsed, s.idle], [2, 5, false]);
});

test('tenants take turns by positions, not by lanes', () => {
  const s = scheduler({ lanesMax: 1 });
  submit(s, 1, [2, 2, 2, 2], { time: { ...FOREVER, tenant: 'a' } });
  submit(s, 2, [6, 6], { time: { ...FOREVER, tenant: 'b' } });
  const order: string[] = [];
  while (!s.idle) {
    const plan = advance(s);
    order.push(...names(plan));
    halt(s, plan, 'all');
    s.applyFinish(finish(s));
  }
  assert.deepEqual(order, ['1.0', '2.0', '1.1', '1.2', '1.3', '2.1']);
});

test('jobs take turns, a lane each, in the order they came', () => {
  const s = scheduler({ lanesMax: 1 });
  submit(s, 1, [2, 2, 2]);
  submit(s, 2, [2]);
  submit(s, 3, [2, 2]);
  const order: string[] = [];
  while (!s.idle) {
    const plan = advance(s);
    order.push(...names(plan));
    halt(s, plan, 'all');
    s.applyFinish(finish(s));
  }
  assert.deepEqual(order, ['1.0', '2.0', '3.0', '1.1', '3.1', '1.2']);
});

test('the head of the queue is not overtaken by a lane that would fit', () => {
  const s = scheduler();
  submit(s, 1, [10]);
  submit(s, 2, [12]);
  submit(s, 3, [1]);
  const first = advance(s);
  assert.deepEqual(names(first), ['1.0']);
  halt(s, first, [0, 1, 2, 3, 4]);
  assert.deepEqual(names(advance(s)), ['1.0'], '5 rows run, 12 do not fit, 1 waits its turn');
});

test('rows that halt make room: the next lane enters as soon as it fits, at its own first step', () => {
  const s = scheduler();
  submit(s, 1, [10]);
  submit(s, 2, [12]);
  const first = advance(s);
  halt(s, first, [0, 1, 2, 3, 4, 5]);
  const second = advance(s);
  assert.deepEqual(names(second), ['1.0', '2.0']);
  assert.deepEqual(
    second.lanes.map(({ step }) => step),
    [2, 1],
  );
  assert.deepEqual([second.activeRows, second.renewedRows], [16, 6]);
});

test('rows, lanes and slots are limits each', () => {
  for (const [limit, running] of [
    [{ rowsMax: 5, lanesMax: 9, slotsMax: 99 }, 2],
    [{ rowsMax: 99, lanesMax: 3, slotsMax: 99 }, 3],
    [{ rowsMax: 99, lanesMax: 9, slotsMax: 8 }, 4],
  ] as const) {
    const s = scheduler(limit);
    submit(s, 1, [2, 2, 2, 2, 2]);
    assert.equal(advance(s).lanes.length, running, JSON.stringify(limit));
  }
});

test('halted positions hold their slots, not rows, until the lane is finished', () => {
  const s = scheduler({ rowsMax: 16, slotsMax: 16 });
  submit(s, 1, [10]);
  submit(s, 2, [7]);
  const first = advance(s);
  halt(s, first, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  const second = advance(s);
  assert.deepEqual(names(second), ['1.0'], 'one row runs, but only 6 slots are free');
  halt(s, second, 'all');
  s.applyFinish(finish(s));
  assert.deepEqual(names(advance(s)), ['2.0']);
});

test('a lane that is done is finished before the others advance, and its place is taken in the next step', () => {
  const s = scheduler({ lanesMax: 2 });
  submit(s, 1, [2]);
  submit(s, 2, [3]);
  submit(s, 3, [4]);
  const first = advance(s);
  halt(s, first, [0, 1, 2]);
  assert.deepEqual(names(finish(s)), ['1.0']);
  s.applyFinish(finish(s));
  assert.deepEqual(names(advance(s)), ['2.0', '3.0']);
});

test('finishing takes as many lanes as finishRowsMax allows, and one at least', () => {
  const s = scheduler({ rowsMax: 40, slotsMax: 40, finishRowsMax: 8 });
  submit(s, 1, [4, 4, 12, 3]);
  halt(s, advance(s), 'all');
  const sizes: number[] = [];
  while (!s.idle) {
    const plan = finish(s);
    sizes.push(plan.lanes.length);
    s.applyFinish(plan);
  }
  assert.deepEqual(sizes, [2, 1, 1]);
});

test('rows that are context only cost nothing when a lane is finished', () => {
  const s = scheduler({ rowsMax: 40, slotsMax: 40, finishRowsMax: 8 });
  submit(s, 1, [10, 10, 10], { scoreFrom: 8 });
  halt(s, advance(s), 'all');
  assert.equal(finish(s).lanes.length, 3);
});

test('renewed rows: those that halted in the step before and lie before the last active position', () => {
  const s = scheduler();
  submit(s, 1, [6]);
  const first = advance(s);
  halt(s, first, [0, 2, 5]);
  const lane = first.lanes[0]?.lane;
  assert.ok(lane !== undefined);
  const renewed = () => Array.from(lane.renewed.subarray(0, lane.renewedCount));
  assert.deepEqual(renewed(), [0, 2], '5 halted too, but nobody comes after it');
  const second = advance(s);
  assert.deepEqual([second.activeRows, second.renewedRows], [3, 2]);
  halt(s, second, []);
  assert.deepEqual(renewed(), [], 'once only');
  const third = advance(s);
  halt(s, third, [2]);
  assert.deepEqual(renewed(), [], 'position 4 was the last active one');
});

test('what is renewed ends at the last position that runs, wherever that is', () => {
  const s = scheduler();
  submit(s, 1, [6]);
  const first = advance(s);
  halt(s, first, [1, 4, 5]);
  assert.equal(advance(s).renewedRows, 1, 'position 3 is the last that runs: it sees 1, and neither 4 nor 5');
});

test('where positions see those after them too, all that halted are renewed, and only while somebody runs', () => {
  const s = new Scheduler(LIMITS, 8, { causal: false, memory: null });
  submit(s, 1, [6]);
  halt(s, advance(s), [0, 4, 5]);
  const second = advance(s);
  assert.deepEqual([second.activeRows, second.renewedRows], [3, 3]);
  halt(s, second, 'all');
  assert.equal(finish(s).lanes[0]?.renewedCount, 0);
});

test('a lane is admitted with the memory that its result takes, and keeps it until whoever reads it gives it back', () => {
  const memory = new SlotPool(10);
  const s = new Scheduler(LIMITS, 8, { causal: false, memory });
  submit(s, 1, [6]);
  submit(s, 2, [5]);
  const first = advance(s);
  assert.deepEqual(names(first), ['1.0'], 'rows and slots are free, but four rows of memory only');
  const [lane] = first.begin;
  assert.ok(lane !== undefined);
  assert.equal(lane.memoryRows.length, 6);
  halt(s, first, 'all');
  s.applyFinish(finish(s));
  assert.equal(s.schedule(), null, 'the lane has left, its memory is still read');
  memory.give(lane.memoryRows);
  assert.deepEqual(names(advance(s)), ['2.0']);
  submit(s, 3, [5]);
  assert.deepEqual(names(advance(s)), ['2.0', '3.0'], 'to the last row');
  s.abort(2);
  s.abort(3);
  assert.equal(memory.available, 10, 'nobody will read what was aborted');
});

test('min_steps holds rows, max_steps ends them', () => {
  const s = scheduler();
  submit(s, 1, [1], { budget: { minSteps: 3, maxSteps: 4, threshold: 0.5 } });
  submit(s, 2, [1], { budget: { minSteps: 1, maxSteps: 8, threshold: 0.5 } });
  const flags: string[] = [];
  for (let i = 0; i < 4; i++) {
    const plan = advance(s);
    flags.push(plan.lanes.map(({ isLast, isHeld }) => `${isHeld ? 'held' : ''}${isLast ? 'last' : ''}`).join());
    halt(s, plan, []);
  }
  assert.deepEqual(flags, ['held,', 'held,', ',', 'last,']);
});

test('one step at most: the first is the last', () => {
  const s = scheduler();
  submit(s, 1, [1], { budget: { minSteps: 1, maxSteps: 1, threshold: 0.99 } });
  assert.deepEqual(
    advance(s).lanes.map(({ isLast, isHeld }) => [isLast, isHeld]),
    [[true, false]],
  );
});

test('halting is counted by step, with remainders by tenths, and handed over once', () => {
  const s = scheduler();
  submit(s, 1, [4]);
  halt(s, advance(s), [0], 0);
  halt(s, advance(s), [0], 0.31);
  halt(s, advance(s), 'all', 1);
  const counts = s.takeHalting();
  assert.deepEqual(counts.atStep, [0, 1, 1, 2, 0, 0, 0, 0, 0]);
  assert.deepEqual(counts.remainderTenths, [1, 0, 0, 1, 0, 0, 0, 0, 0, 2]);
  assert.ok(Math.abs(counts.remainderSum - 2.31) < 1e-6);
  assert.deepEqual(s.takeHalting().atStep, [0, 0, 0, 0, 0, 0, 0, 0, 0]);
});

test('abort: a waiting job leaves the queue', () => {
  const s = scheduler({ lanesMax: 1 });
  submit(s, 1, [2]);
  submit(s, 2, [2, 2]);
  submit(s, 3, [2]);
  s.abort(2);
  assert.equal(s.lanesWaiting, 2);
  halt(s, advance(s), 'all');
  s.applyFinish(finish(s));
  assert.deepEqual(names(advance(s)), ['3.0']);
});

test('abort: a job partly waiting, partly running leaves both at once', () => {
  const s = scheduler({ lanesMax: 2 });
  submit(s, 1, [2, 2, 2, 2]);
  submit(s, 2, [3]);
  halt(s, advance(s), [0]);
  s.abort(1);
  const { lanesWaiting, lanesRunning, slotsUsed } = s;
  assert.deepEqual({ lanesWaiting, lanesRunning, slotsUsed }, { lanesWaiting: 0, lanesRunning: 1, slotsUsed: 3 });
  assert.deepEqual(names(advance(s)), ['2.0']);
});

test('abort: between schedule and apply the other lanes still get their own rows', () => {
  const s = scheduler();
  submit(s, 1, [2]);
  submit(s, 2, [3]);
  const plan = advance(s);
  s.abort(1);
  halt(s, plan, [2, 4]);
  const next = advance(s);
  assert.deepEqual(names(next), ['2.0']);
  assert.deepEqual(Array.from(next.lanes[0]?.lane.depths ?? []), [1, 0, 1]);
});

test('abort: a lane about to be finished is not', () => {
  const s = scheduler();
  submit(s, 1, [2]);
  submit(s, 2, [2]);
  halt(s, advance(s), 'all');
  const plan = finish(s);
  s.abort(1);
  assert.equal(s.slotsUsed, 2);
  s.applyFinish(plan);
  assert.deepEqual([s.slotsUsed, s.idle], [0, true], 'its slots were given back once');
});

test('abort: twice, or of a job that never was, is harmless', () => {
  const s = scheduler();
  submit(s, 1, [2]);
  halt(s, advance(s), []);
  s.abort(7);
  s.abort(1);
  s.abort(1);
  assert.deepEqual([s.slotsUsed, s.idle], [0, true]);
});

test('a deadline ends a job in any state, when it is reached and not before', () => {
  const s = scheduler({ lanesMax: 1 });
  submit(s, 1, [2], { time: { ...FOREVER, deadlineAtMs: 100 } });
  submit(s, 2, [2], { time: { ...FOREVER, deadlineAtMs: 90 } });
  submit(s, 3, [2]);
  halt(s, advance(s), []);
  assert.deepEqual(s.expire(89.9), []);
  assert.deepEqual(s.expire(100), [
    { jobId: 2, limit: 'deadline' },
    { jobId: 1, limit: 'deadline' },
  ]);
  assert.equal(s.slotsUsed, 0);
  assert.deepEqual(names(advance(s)), ['3.0']);
});

test('a job not started in time is given up; one whose first lane runs is not', () => {
  const s = scheduler({ lanesMax: 1 });
  submit(s, 1, [2, 2], { time: { deadlineAtMs: null, startByMs: 50 } });
  submit(s, 2, [2], { time: { deadlineAtMs: null, startByMs: 60 } });
  halt(s, advance(s), []);
  assert.deepEqual(s.expire(59), []);
  assert.deepEqual(s.expire(1000), [{ jobId: 2, limit: 'start' }]);
  assert.equal(s.lanesWaiting, 1, 'the second lane of job 1 still waits');
});

test('of two limits passed at once the deadline is named', () => {
  const s = scheduler();
  submit(s, 1, [2], { time: { deadlineAtMs: 50, startByMs: 50 } });
  assert.deepEqual(s.expire(50), [{ jobId: 1, limit: 'deadline' }]);
});

test('a job that was settled does not expire', () => {
  const s = scheduler();
  submit(s, 1, [2], { time: { ...FOREVER, deadlineAtMs: 50 } });
  halt(s, advance(s), 'all');
  s.applyFinish(finish(s));
  s.settle(1);
  assert.deepEqual(s.expire(99), []);
});

test('a lane that could never be admitted is a defect of the caller', () => {
  assert.throws(() => submit(scheduler(), 1, [17]), /17 positions exceeds/);
  assert.throws(() => submit(scheduler({ rowsMax: 99 }), 1, [33]), /33 positions exceeds/);
  const s = scheduler();
  submit(s, 1, [16]);
  assert.equal(advance(s).activeRows, 16, 'one that just fits is admitted');
});

test('a job without lanes, or a lane without positions, is a defect of the caller', () => {
  const s = scheduler();
  assert.throws(() => submit(s, 1, []), /without/);
  assert.throws(() => submit(s, 2, [3, 0]), /without/);
  assert.deepEqual([s.idle, s.lanesWaiting], [true, 0], 'nothing of it was taken in');
});
