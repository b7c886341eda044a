/** Any jobs under any limits: every plan keeps the rules (the fake family checks them), and every result is the one of halting-oracle. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget } from '../../src/engine/protocol.js';
import type { Lane } from '../../src/scheduler/lane.js';
import { Scheduler, type SchedulerLimits } from '../../src/scheduler/scheduler.js';
import { FakeFamily } from '../fake-family.js';
import { replay } from '../halting-oracle.js';

const MAX_STEPS = 8;
const LANE_MAX = 20;
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

const limitsArbitrary: fc.Arbitrary<SchedulerLimits> = fc.record({
  rowsMax: fc.integer({ min: LANE_MAX, max: 80 }),
  lanesMax: fc.integer({ min: 1, max: 8 }),
  slotsMax: fc.integer({ min: LANE_MAX, max: 120 }),
  finishRowsMax: fc.integer({ min: 1, max: 40 }),
});
const budgetArbitrary: fc.Arbitrary<Budget> = fc
  .record({ maxSteps: fc.integer({ min: 1, max: MAX_STEPS }), low: fc.nat(), threshold: fc.constantFrom(0.99, 0.5, 1) })
  .map(({ maxSteps, low, threshold }) => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const idsArbitrary = fc
  .array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: LANE_MAX })
  .map((ids) => Int32Array.from(ids));
const jobArbitrary = fc.record({
  windows: fc.array(idsArbitrary, { minLength: 1, maxLength: 5 }),
  budget: budgetArbitrary,
  /** Turns before it is submitted, and, for some, from there to its abort. */
  submitAt: fc.integer({ min: 0, max: 30 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 20 }), { freq: 3 }),
});
type TestJob = typeof jobArbitrary extends fc.Arbitrary<infer T> ? T : never;

/** Lanes as they were finished, and all lanes in the order of their admission. */
interface Outcome {
  readonly results: Map<string, Lane>;
  readonly admitted: string[];
}

async function runAll(jobs: readonly TestJob[], limits: SchedulerLimits): Promise<Outcome> {
  const scheduler = new Scheduler(limits, MAX_STEPS);
  const family = new FakeFamily(limits);
  const results = new Map<string, Lane>();
  const admitted: string[] = [];
  /** Jobs that wait with an unadmitted first lane: advancing turns so far, and how many are allowed. */
  const waits = new Map<number, { turns: number; readonly bound: number }>();
  const waitingJobs = new Set<number>();
  for (let turn = 0; turn < 5000; turn++) {
    for (const [jobId, { windows, budget, submitAt, abortAfter }] of jobs.entries()) {
      if (turn === submitAt) {
        const lanes = windows.map((ids, index) => ({ jobId, index, ids, scoreFrom: 0, topCount: 0, budget }));
        waitingJobs.add(jobId);
        waits.set(jobId, { turns: 0, bound: waitingJobs.size * MAX_STEPS });
        scheduler.submit(jobId, lanes, FOREVER);
      }
      if (abortAfter !== null && turn === submitAt + abortAfter) {
        scheduler.abort(jobId);
        waitingJobs.delete(jobId);
        waits.delete(jobId);
      }
    }
    const plan = scheduler.schedule();
    if (plan === null) {
      if (turn > 60) break;
      continue;
    }
    if (plan.kind === 'advance') {
      for (const { request } of plan.begin) {
        admitted.push(`${request.jobId}.${request.index}`);
        waits.delete(request.jobId);
        if (request.index === (jobs[request.jobId] as TestJob).windows.length - 1) waitingJobs.delete(request.jobId);
      }
      for (const [jobId, wait] of waits) {
        wait.turns += 1;
        assert.ok(wait.turns <= wait.bound, `job ${jobId} still waits after ${wait.turns} steps`);
      }
      scheduler.applyAdvance(plan, await family.advance(plan));
    } else {
      await family.finish(plan);
      for (const lane of plan.lanes) {
        const key = `${lane.request.jobId}.${lane.request.index}`;
        assert.ok(!results.has(key), `lane ${key} is finished once`);
        results.set(key, lane);
      }
      scheduler.applyFinish(plan);
    }
  }
  assert.ok(scheduler.idle, 'it comes to an end');
  assert.deepEqual([scheduler.slotsUsed, scheduler.lanesWaiting, scheduler.lanesRunning], [0, 0, 0]);
  return { results, admitted };
}

test('every lane of every job that was not aborted reports what it would report alone', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(jobArbitrary, { minLength: 1, maxLength: 12 }), limitsArbitrary, async (jobs, limits) => {
      const { results } = await runAll(jobs, limits);
      for (const [jobId, { windows, budget, abortAfter }] of jobs.entries()) {
        for (const [index, ids] of windows.entries()) {
          const lane = results.get(`${jobId}.${index}`);
          if (lane === undefined && abortAfter !== null) continue;
          assert.ok(lane !== undefined, `lane ${jobId}.${index} was lost`);
          const { depths, remainders, positionSteps } = lane;
          assert.deepEqual({ depths, remainders, positionSteps }, replay(ids, budget));
        }
      }
    }),
    { numRuns: 400 },
  );
});

test('jobs take turns: lanes are admitted round by round', async () => {
  const together = jobArbitrary.map((job) => ({ ...job, submitAt: 0, abortAfter: null }));
  await fc.assert(
    fc.asyncProperty(fc.array(together, { minLength: 1, maxLength: 8 }), limitsArbitrary, async (jobs, limits) => {
      const rounds = Array.from({ length: 5 }, (_, index) =>
        jobs.flatMap(({ windows }, jobId) => (index < windows.length ? [`${jobId}.${index}`] : [])),
      );
      assert.deepEqual((await runAll(jobs, limits)).admitted, rounds.flat());
    }),
    { numRuns: 100 },
  );
});
