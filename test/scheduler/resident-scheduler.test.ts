/** Any jobs under any limits, aborted between any two launches, on a device that is simulated: it checks what each plan says of its tables. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget } from '../../src/engine/protocol.js';
import { HaltingHistory } from '../../src/scheduler/halting-history.js';
import type { LaneRequest } from '../../src/scheduler/lane.js';
import { LaneQueue } from '../../src/scheduler/lane-queue.js';
import { RangeMemory } from '../../src/scheduler/range-memory.js';
import {
  type HaltingForecast,
  type ResidentLane,
  type ResidentLimits,
  type ResidentPlan,
  ResidentScheduler,
} from '../../src/scheduler/resident-scheduler.js';
import { replay } from '../halting-oracle.js';
import { SimulatedRows } from '../simulated-rows.js';

const MAX_STEPS = 8;
const LANE_MAX = 20;
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
/** Launches after which whoever reads a memory gives it back. */
const READ_FOR = 3;

const limitsArbitrary: fc.Arbitrary<ResidentLimits> = fc.record({
  rowsMax: fc.integer({ min: LANE_MAX, max: 80 }),
  lanesMax: fc.integer({ min: 1, max: 8 }),
  slotsMax: fc.integer({ min: LANE_MAX, max: 120 }),
  finishRowsMax: fc.integer({ min: 1, max: 40 }),
  flatRows: fc.constantFrom(0, 10, 80),
  stepsMax: fc.integer({ min: 1, max: 4 }),
});
const budgetArbitrary: fc.Arbitrary<Budget> = fc
  .record({ maxSteps: fc.integer({ min: 1, max: MAX_STEPS }), low: fc.nat(), threshold: fc.constantFrom(0.99, 0.5, 1) })
  .map(({ maxSteps, low, threshold }) => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const windowArbitrary = fc
  .record({
    ids: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: LANE_MAX }),
    from: fc.nat(LANE_MAX),
  })
  .map(({ ids, from }) => ({ ids: Int32Array.from(ids), scoreFrom: from % ids.length }));
const jobArbitrary = fc.record({
  windows: fc.array(windowArbitrary, { minLength: 1, maxLength: 5 }),
  budget: budgetArbitrary,
  tenant: fc.constantFrom('', 'a'),
  /** Turns before it is submitted, and, for some, from there to its abort. */
  submitAt: fc.integer({ min: 0, max: 30 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 12 }), { freq: 2 }),
});
type TestJob = typeof jobArbitrary extends fc.Arbitrary<infer T> ? T : never;

/** Halts early, never and by what was seen: k must be right for none of them. */
const FORECASTS: readonly (() => HaltingForecast)[] = [
  () => ({ hazard: () => 1 }),
  () => ({ hazard: () => 0 }),
  () => new HaltingHistory(MAX_STEPS),
];

interface Cohort {
  readonly scheduler: ResidentScheduler;
  readonly device: SimulatedRows;
  readonly dropping: Set<ResidentLane>;
}

/** Runs all jobs; the lanes that were finished, by job and index. */
function runAll(
  jobs: readonly TestJob[],
  limits: ResidentLimits,
  cohortCount: number,
  forecast: HaltingForecast,
  memory: RangeMemory | null,
): Map<string, ResidentLane> {
  const queue = new LaneQueue();
  const cohorts: Cohort[] = Array.from({ length: cohortCount }, () => {
    const scheduler = new ResidentScheduler(limits, queue, forecast, memory);
    return { scheduler, device: new SimulatedRows(limits), dropping: new Set() };
  });
  const results = new Map<string, ResidentLane>();
  /** Memories under reading, and the turn at which each is given back. */
  const read: { readonly lane: ResidentLane; readonly until: number }[] = [];
  let stalled = 0;
  for (let turn = 0; turn < 5000; turn++) {
    for (const [jobId, { windows, budget, tenant, submitAt, abortAfter }] of jobs.entries()) {
      if (turn === submitAt) {
        const lanes = windows.map((window, index): LaneRequest => ({ jobId, index, ...window, topCount: 0, budget }));
        cohorts[0]?.scheduler.check(lanes);
        queue.submit(jobId, lanes, { ...FOREVER, tenant });
      }
      if (abortAfter !== null && turn === submitAt + abortAfter) abort(jobId, queue, cohorts);
    }
    while (read[0] !== undefined && read[0].until <= turn)
      memory?.give((read.shift() as (typeof read)[0]).lane.memoryRows);
    let began = 0;
    let planned = false;
    for (const cohort of cohorts) {
      const plan = cohort.scheduler.schedule();
      if (plan === null) continue;
      planned = true;
      began += plan.begin.length;
      for (const lane of plan.begin) assert.equal(lane.memoryRows.length, memory === null ? 0 : lane.length);
      launch(plan, cohort, queue);
      for (const lane of plan.finish) {
        const key = `${lane.request.jobId}.${lane.request.index}`;
        assert.ok(!results.has(key), `lane ${key} is finished once`);
        results.set(key, lane);
        if (memory !== null) read.push({ lane, until: turn + READ_FOR });
      }
    }
    // Whoever is at the head gets in when all that runs has ended and was read, at the latest.
    stalled = queue.lanes === 0 || began > 0 ? 0 : stalled + 1;
    assert.ok(stalled <= MAX_STEPS + limits.lanesMax + READ_FOR + 1, `the head waits for ${stalled} launches`);
    if (!planned && turn > 50 && queue.lanes === 0 && read.length === 0) break;
  }
  for (const { scheduler, device, dropping } of cohorts) {
    assert.deepEqual([scheduler.lanesRunning, scheduler.slotsUsed, dropping.size], [0, 0, 0]);
    assert.ok(device.empty);
  }
  assert.equal(memory?.used ?? 0, 0, 'every memory row is back');
  return results;
}

function abort(jobId: number, queue: LaneQueue, cohorts: readonly Cohort[]): void {
  queue.abort(jobId);
  for (const { scheduler, device, dropping } of cohorts) {
    const before = scheduler.slotsUsed;
    const ended = scheduler.lanesRunning;
    const dropped = device.drop(scheduler.abort(jobId));
    for (const lane of dropped) {
      assert.equal(lane.request.jobId, jobId);
      dropping.add(lane);
    }
    assert.deepEqual(scheduler.abort(jobId), [], 'once');
    // What had ended leaves at once, what runs keeps its slots until a step has left out its rows.
    if (scheduler.lanesRunning === ended) assert.equal(scheduler.slotsUsed, before);
    for (const lane of dropping) assert.ok(scheduler.slotsUsed >= lane.length);
  }
}

function launch(plan: ResidentPlan, { scheduler, device, dropping }: Cohort, queue: LaneQueue): void {
  const { limits } = scheduler;
  assert.ok(scheduler.slotsUsed <= limits.slotsMax);
  assert.ok(scheduler.lanesRunning <= limits.lanesMax);
  if (plan.steps > 1) {
    assert.ok(plan.activeRows <= limits.flatRows, 'where rows that halt save time, they are let go at once');
    assert.equal(queue.lanes, 0, 'a lane that waits is not kept waiting');
  }
  for (const { request } of plan.finish) assert.ok(![...dropping].some((lane) => lane.request === request));
  scheduler.apply(plan, device.run(plan));
  if (plan.steps === 0) return;
  for (const lane of dropping) assert.ok(!device.isInTables(lane), 'a step leaves out what was dropped');
  dropping.clear();
}

test('plans know the tables of the device; every lane that was not aborted is finished once, at the cost of its depths', () => {
  const run = fc.record({
    jobs: fc.array(jobArbitrary, { minLength: 1, maxLength: 12 }),
    limits: limitsArbitrary,
    cohorts: fc.constantFrom(1, 2),
    forecast: fc.constantFrom(...FORECASTS),
    memoryRows: fc.option(fc.integer({ min: LANE_MAX, max: 100 })),
  });
  fc.assert(
    fc.property(run, ({ jobs, limits, cohorts, forecast, memoryRows }) => {
      const memory = memoryRows === null ? null : new RangeMemory(memoryRows);
      const results = runAll(jobs, limits, cohorts, forecast(), memory);
      for (const [jobId, { windows, budget, abortAfter }] of jobs.entries()) {
        for (const [index, { ids }] of windows.entries()) {
          const lane = results.get(`${jobId}.${index}`);
          if (lane === undefined && abortAfter !== null) continue;
          assert.ok(lane !== undefined, `lane ${jobId}.${index} was lost`);
          const { depths, positionSteps } = replay(ids, budget);
          assert.equal(lane.positionSteps, positionSteps);
          assert.ok(lane.steps >= Math.max(...depths));
        }
      }
    }),
    { numRuns: 400 },
  );
});

const LIMITS: ResidentLimits = { rowsMax: 40, lanesMax: 4, slotsMax: 40, finishRowsMax: 40, flatRows: 40, stepsMax: 4 };
const BUDGET: Budget = { maxSteps: 8, minSteps: 1, threshold: 0.99 };

function single(
  limits: Partial<ResidentLimits> = {},
  forecast: HaltingForecast = { hazard: () => 1 },
  memory: RangeMemory | null = null,
) {
  const queue = new LaneQueue();
  const all = { ...LIMITS, ...limits };
  const scheduler = new ResidentScheduler(all, queue, forecast, memory);
  const device = new SimulatedRows(all);
  const submit = (jobId: number, length: number, budget = BUDGET, scoreFrom = 0) => {
    const ids = Int32Array.from({ length }, (_, i) => jobId * 7 + i);
    queue.submit(jobId, [{ jobId, index: 0, ids, scoreFrom, topCount: 0, budget }], FOREVER);
  };
  const next = (): ResidentPlan | null => {
    const plan = scheduler.schedule();
    if (plan !== null) scheduler.apply(plan, device.run(plan));
    return plan;
  };
  return { scheduler, device, submit, next };
}

test('a lane that is aborted with rows to renew keeps its slots while the next step still writes them', () => {
  const { scheduler, device, submit, next } = single();
  submit(1, 20);
  // On until some rows have halted: they are renewed in the step after.
  while (device.toRenew === 0) assert.ok(next() !== null);
  const [dropped] = [...device.drop(scheduler.abort(1))] as [ResidentLane];
  submit(2, 20);
  submit(3, 20);
  assert.equal(scheduler.slotsUsed, 20, 'what was dropped is still held');
  const beside = next() as ResidentPlan;
  assert.ok(beside.renewedRows > 0, 'rows of the lane that left are written in this step');
  const [second] = beside.begin;
  assert.ok(second !== undefined && second.id !== dropped.id);
  assert.ok(second.base >= dropped.base + dropped.length || dropped.base >= second.base + second.length);
  assert.ok(!device.isInTables(dropped));
  const after = next() as ResidentPlan;
  assert.equal(after.begin[0]?.base, dropped.base, 'then its slots are free');
});

test('a launch runs several steps only as far as no lane is likely to end, and never past its last step', () => {
  const never: HaltingForecast = { hazard: () => 0 };
  const steps = (limits: Partial<ResidentLimits>, forecast: HaltingForecast, budget: Budget, length = 10) => {
    const { submit, next } = single(limits, forecast);
    submit(1, length, budget);
    return next()?.steps;
  };
  assert.equal(steps({}, never, BUDGET), 4);
  assert.equal(steps({ stepsMax: 1 }, never, BUDGET), 1);
  assert.equal(steps({ flatRows: 9 }, never, BUDGET), 1, 'rows that halt make the next step cheaper');
  assert.equal(steps({ flatRows: 10 }, never, BUDGET), 4, 'up to flatRows they do not');
  assert.equal(steps({}, never, { ...BUDGET, maxSteps: 2 }), 2);
  assert.equal(steps({}, { hazard: () => 1 }, BUDGET), 1);
  assert.equal(steps({}, { hazard: () => 1 }, { ...BUDGET, minSteps: 3 }), 3, 'nobody halts before the third');
  assert.equal(steps({ stepsMin: 2 }, { hazard: () => 1 }, BUDGET), 2, 'unless a launch is to have so many');
  const half: HaltingForecast = { hazard: () => 0.5 };
  assert.equal(steps({}, half, BUDGET, 2), 1, 'two rows end in a quarter of the cases');
  assert.equal(steps({}, half, BUDGET, 10), 4, 'ten hardly ever do');
});

const ONE_STEP: Budget = { ...BUDGET, maxSteps: 1 };

test('nothing to do is no launch, and results alone are read in a launch without steps', () => {
  const { scheduler, submit, next } = single();
  assert.equal(next(), null);
  submit(1, 5, ONE_STEP);
  assert.equal(next()?.steps, 1);
  assert.equal(scheduler.lanesRunning, 1, 'it has ended and is not read yet');
  const last = next();
  assert.deepEqual([last?.finish.length, last?.steps], [1, 0]);
  assert.equal(next(), null);
  assert.equal(scheduler.lanesRunning, 0);
});

test('what has ended and what runs both count; an abort of what has ended leaves nothing to read', () => {
  const memory = new RangeMemory(20);
  const { scheduler, submit, next } = single({}, { hazard: () => 0 }, memory);
  submit(1, 5, ONE_STEP);
  submit(2, 6, ONE_STEP);
  submit(3, 9, { ...BUDGET, minSteps: 8 });
  next();
  assert.deepEqual([scheduler.lanesRunning, scheduler.slotsUsed, memory.used], [3, 20, 20]);
  assert.deepEqual(scheduler.abort(1), [], 'none of its rows runs');
  assert.deepEqual([scheduler.lanesRunning, scheduler.slotsUsed, memory.used], [2, 15, 15], 'it leaves at once');
  const plan = next();
  assert.deepEqual(
    plan?.finish.map(({ request }) => request.jobId),
    [2],
  );
  assert.equal(memory.used, 15, 'whoever reads a memory gives it back, not the scheduler');
});

test('what ended together is read together, as far as the rows that are scored fit', () => {
  const finished = (finishRowsMax: number) => {
    const { submit, next } = single({ finishRowsMax });
    // Of ten positions each, six are scored.
    for (const id of [1, 2, 3]) submit(id, 10, ONE_STEP, 4);
    next();
    return [next()?.finish.length, next()?.finish.length];
  };
  assert.deepEqual(finished(18), [3, undefined]);
  assert.deepEqual(finished(17), [2, 1]);
  assert.deepEqual(finished(12), [2, 1]);
  assert.deepEqual(finished(11), [1, 1]);
  assert.deepEqual(finished(1), [1, 1], 'one is always read');
});

test('a lane that was aborted does not shorten the launch that drops its rows', () => {
  const stepsOfSecondLaunch = (aborts: boolean) => {
    const { scheduler, device, submit, next } = single({ stepsMax: 2 }, { hazard: () => 0 });
    submit(1, 10, { ...BUDGET, maxSteps: 3, minSteps: 3 });
    submit(2, 10, { ...BUDGET, minSteps: 8 });
    assert.equal(next()?.steps, 2);
    if (aborts) device.drop(scheduler.abort(1));
    return next()?.steps;
  };
  assert.equal(stepsOfSecondLaunch(false), 1, 'it ends in its third step');
  assert.equal(stepsOfSecondLaunch(true), 2);
});

test('a lane takes memory to the last free row', () => {
  const { submit, next } = single({}, { hazard: () => 1 }, new RangeMemory(10));
  submit(1, 10);
  assert.equal(next()?.begin.length, 1);
});

test('lanes that could never run are refused before they are queued', () => {
  const { scheduler } = single({ slotsMax: 30 });
  const lane = (length: number) => {
    return { jobId: 1, index: 0, ids: new Int32Array(length), scoreFrom: 0, topCount: 0, budget: BUDGET };
  };
  scheduler.check([lane(1), lane(30)]);
  assert.throws(() => scheduler.check([lane(31)]), /31 positions exceeds rowsMax or slotsMax/);
  assert.throws(() => scheduler.check([lane(0)]), /without positions/);
});
