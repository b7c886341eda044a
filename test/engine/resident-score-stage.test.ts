/** The stage that scores on a device, over families that are simulated: whose turn it is, what leaves when, and what is told of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget, ScoreWindowResult, StageTelemetry } from '../../src/engine/protocol.js';
import { ResidentScoreStage } from '../../src/engine/resident-score-stage.js';
import type { StageTurn } from '../../src/engine/stage.js';
import type { Launch, Launching } from '../../src/families/launching.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';
import type { TimeLimits } from '../../src/scheduler/lane-queue.js';
import type { ResidentLimits, ResidentPlan, RowRange, StepProgress } from '../../src/scheduler/resident-scheduler.js';
import { replay } from '../halting-oracle.js';
import { SimulatedRows } from '../simulated-rows.js';

const LIMITS: ResidentLimits = { rowsMax: 40, lanesMax: 4, slotsMax: 60, finishRowsMax: 40, flatRows: 40, stepsMax: 3 };
const MODEL = { id: 'm', maxSteps: 8 };
const BUDGET: Budget = { maxSteps: 8, minSteps: 1, threshold: 0.99 };
const FOREVER: TimeLimits = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const DEVICE_MS = 2;

class SimulatedFamily implements Launching<ScoreWindowResult> {
  readonly rows = new SimulatedRows(LIMITS);
  /** The launch under way, and what it leaves: the device may have run it long before anyone asks. */
  private underWay: { readonly plan: ResidentPlan; readonly progress: StepProgress[] } | null = null;
  private padded = 0;
  launches = 0;

  constructor(
    private readonly name: string,
    private readonly said: string[] = [],
  ) {}

  enqueue(plan: ResidentPlan): void {
    assert.equal(this.underWay, null, 'a launch at a time');
    this.said.push(`enqueue ${this.name}`);
    this.launches += 1;
    this.padded += 3;
    this.underWay = { plan, progress: this.rows.run(plan) };
  }

  fetch(plan: ResidentPlan): Launch<ScoreWindowResult> {
    assert.equal(this.underWay?.plan, plan);
    this.said.push(`fetch ${this.name}`);
    const { progress } = this.underWay as NonNullable<typeof this.underWay>;
    this.underWay = null;
    return { finished: plan.finish.map(({ request }) => scored(request)), progress, deviceMs: DEVICE_MS };
  }

  drop(ranges: readonly RowRange[]): void {
    assert.equal(this.underWay, null, 'rows are dropped between launches');
    if (this.rows.drop(ranges).size > 0) this.said.push(`drop ${this.name}`);
  }

  passed(): boolean {
    return true;
  }

  takePadded(): number {
    const { padded } = this;
    this.padded = 0;
    return padded;
  }
}

function scored({ ids, scoreFrom, budget }: { ids: Int32Array; scoreFrom: number; budget: Budget }): ScoreWindowResult {
  const { depths, remainders, positionSteps } = replay(ids, budget);
  const none = { topIds: new Int32Array(0), topLogprobs: new Float32Array(0) };
  const logprobs = new Float32Array(ids.length - scoreFrom);
  return {
    ...none,
    logprobs,
    depths: depths.subarray(scoreFrom),
    remainders: remainders.subarray(scoreFrom),
    positionSteps,
  };
}

const idsOf = (length: number, salt = 0) => Int32Array.from({ length }, (_, i) => salt * 31 + i);

function setup(cohorts: number) {
  const said: string[] = [];
  const families = Array.from({ length: cohorts }, (_, i) => new SimulatedFamily(String(i), said));
  const stage = new ResidentScoreStage({ ...MODEL, families }, LIMITS);
  const submit = (id: number, windows: readonly Int32Array[], limits = FOREVER) => {
    const job = { kind: 'score', id, model: 'm', budget: BUDGET, topLogprobs: 0, submittedAtMs: 0 } as const;
    const parts = windows.map((ids) => ({ ids, scoreFrom: 0 }));
    return stage.submit({ ...job, windows: parts, deadlineAtMs: limits.deadlineAtMs }, limits);
  };
  let nowMs = 0;
  const turn = () => stage.turn(() => ++nowMs);
  return { said, families, stage, submit, turn };
}

/** Windows of a turn's messages, as job.index. */
const windowsOf = (turn: StageTurn | null): string[] =>
  (turn?.messages ?? []).map(({ message }) => {
    assert.ok(message.type === 'window');
    return `${message.jobId}.${message.index}`;
  });

async function untilIdle(turn: () => Promise<StageTurn | null>): Promise<string[]> {
  const windows: string[] = [];
  for (let i = 0; i < 2000; i++) {
    const done = await turn();
    if (done === null) return windows;
    windows.push(...windowsOf(done));
  }
  throw new Error('it does not come to an end');
}

const sumOf = (reports: readonly StageTelemetry[], of: (report: StageTelemetry) => number) =>
  reports.reduce((total, report) => total + of(report), 0);

test('two cohorts alternate: while one is read and planned, the launch of the other is under way', async () => {
  const { said, submit, turn } = setup(2);
  assert.equal(await turn(), null, 'nothing to do');
  submit(
    1,
    Array.from({ length: 8 }, (_, i) => idsOf(10, i)),
  );
  const first = await turn();
  assert.deepEqual(first?.started, [1, 1, 1, 1]);
  assert.deepEqual((await turn())?.started, [1, 1, 1, 1]);
  for (let i = 0; i < 6; i++) await turn();
  assert.deepEqual(said, [
    ...['enqueue 0', 'enqueue 1'],
    ...['fetch 0', 'enqueue 0', 'fetch 1', 'enqueue 1', 'fetch 0', 'enqueue 0', 'fetch 1', 'enqueue 1'],
    ...['fetch 0', 'enqueue 0', 'fetch 1', 'enqueue 1'],
  ]);
  await untilIdle(turn);
});

test('a lone lane needs no second cohort', async () => {
  const { families, submit, turn } = setup(2);
  submit(1, [idsOf(10)]);
  assert.deepEqual(await untilIdle(turn), ['1.0']);
  assert.equal(families[1]?.launches, 0);
});

test('aborted while a launch is under way: rows are dropped after it, what stays is scored, slots return', async () => {
  const { said, stage, submit, turn } = setup(2);
  submit(1, [idsOf(20, 1)]);
  submit(2, [idsOf(20, 2)]);
  await turn();
  stage.abort(1);
  stage.abort(1);
  assert.deepEqual(said, ['enqueue 0'], 'not while the device may still write them');
  assert.equal(stage.gauges().slotsUsed, 40);
  await turn();
  assert.deepEqual(said.slice(1), ['fetch 0', 'drop 0', 'enqueue 0']);
  submit(3, [idsOf(20, 3)]);
  assert.deepEqual((await untilIdle(turn)).sort(), ['2.0', '3.0']);
  assert.deepEqual([stage.gauges().lanesRunning, stage.gauges().slotsUsed], [0, 0]);
});

test('aborted between launches: at once', async () => {
  const { families, stage, submit, turn } = setup(1);
  submit(1, [idsOf(20), idsOf(20, 1), idsOf(20, 2)]);
  assert.equal(stage.gauges().lanesWaiting, 3);
  stage.abort(1);
  assert.equal(stage.gauges().lanesWaiting, 0);
  assert.equal(await turn(), null);
  assert.equal(families[0]?.launches, 0);
});

test('expire: what waited too long or is past its deadline leaves, once, and nothing of it is posted', async () => {
  const { stage, submit, turn } = setup(1);
  submit(1, [idsOf(40, 1)], { deadlineAtMs: 50, startByMs: 1000 });
  submit(2, [idsOf(40, 2)], { deadlineAtMs: null, startByMs: 60 });
  submit(3, [idsOf(10, 3)], { deadlineAtMs: null, startByMs: 1000 });
  await turn();
  assert.deepEqual(stage.expire(49), []);
  assert.deepEqual(stage.expire(60), [
    { jobId: 1, limit: 'deadline' },
    { jobId: 2, limit: 'start' },
  ]);
  assert.deepEqual(stage.expire(1e6), [{ jobId: 3, limit: 'start' }]);
  assert.deepEqual(stage.expire(1e6), []);
  assert.deepEqual(await untilIdle(turn), []);
  assert.deepEqual(stage.gauges(), {
    ...{ lanesWaiting: 0, lanesRunning: 0, slotsUsed: 0, slotsTotal: 60 },
    ...{ cacheRowsUsed: 0, cacheRowsTotal: 0 },
  });
});

test('a window that never fits is refused, and nothing of its job is queued', () => {
  const { stage, submit } = setup(1);
  assert.throws(() => submit(1, [idsOf(10), idsOf(41)]), /41 positions exceeds/);
  assert.equal(stage.gauges().lanesWaiting, 0);
});

test('a launch that fails rejects the turn', async () => {
  const family = new SimulatedFamily('0');
  const stage = new ResidentScoreStage({ ...MODEL, families: [family] }, LIMITS);
  const job = { kind: 'score', id: 1, model: 'm', budget: BUDGET, topLogprobs: 0, submittedAtMs: 0 } as const;
  stage.submit({ ...job, windows: [{ ids: idsOf(5), scoreFrom: 0 }], deadlineAtMs: null }, FOREVER);
  await stage.turn(() => 0);
  family.fetch = () => {
    throw new RuntimeFailure('cudaEventSynchronize', 'an illegal memory access was encountered (CUDA error 700)');
  };
  await assert.rejects(
    stage.turn(() => 0),
    /illegal memory access/,
  );
});

const jobArbitrary = fc.record({
  lengths: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
  submitAt: fc.nat(20),
  abortAfter: fc.option(fc.nat(8), { freq: 2 }),
});

test('any jobs, aborts at any moment: each window that is wanted is posted once, and the reports add up', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(jobArbitrary, { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 3 }),
      async (jobs, cohorts) => {
        const { families, stage, submit, turn } = setup(cohorts);
        const posted = new Map<string, ScoreWindowResult>();
        const reports: StageTelemetry[] = [];
        const windows = jobs.map(({ lengths }, id) => lengths.map((length, i) => idsOf(length, 10 * id + i)));
        for (let at = 0; at < 3000; at++) {
          jobs.forEach(({ submitAt, abortAfter }, id) => {
            if (at === submitAt) submit(id, windows[id] as Int32Array[]);
            if (abortAfter !== null && at === submitAt + abortAfter) stage.abort(id);
          });
          const done = await turn();
          for (const { message, completesPart } of done?.messages ?? []) {
            assert.ok(message.type === 'window' && completesPart);
            const key = `${message.jobId}.${message.index}`;
            assert.ok(!posted.has(key), `${key} is posted once`);
            posted.set(key, message.result);
          }
          if (at % 5 === 0) reports.push(...stage.telemetry());
          if (done === null && at > 30) break;
        }
        reports.push(...stage.telemetry());
        let [positions, steps] = [0, 0];
        jobs.forEach(({ abortAfter }, id) => {
          (windows[id] as Int32Array[]).forEach((ids, index) => {
            const result = posted.get(`${id}.${index}`);
            assert.ok(result !== undefined || abortAfter !== null, `${id}.${index} was lost`);
            if (result === undefined) return;
            const { depths, remainders, positionSteps } = replay(ids, BUDGET);
            assert.deepEqual(
              [result.depths, result.remainders, result.positionSteps],
              [depths, remainders, positionSteps],
            );
            positions += ids.length;
            steps += positionSteps;
          });
        });
        const { lanesWaiting, lanesRunning, slotsUsed } = stage.gauges();
        assert.deepEqual([lanesWaiting, lanesRunning, slotsUsed], [0, 0, 0]);
        for (const { rows } of families) assert.ok(rows.empty);
        const launches = families.reduce((sum, family) => sum + family.launches, 0);
        const ran = families.reduce((sum, { rows }) => sum + rows.steps, 0);
        assert.equal(
          sumOf(reports, ({ steps }) => steps),
          ran,
        );
        assert.equal(
          sumOf(reports, ({ rowsPerStep }) => rowsPerStep.length),
          ran,
        );
        assert.equal(
          sumOf(reports, ({ paddedRows }) => paddedRows),
          3 * launches,
        );
        assert.ok(
          Math.abs(sumOf(reports, ({ computeSeconds }) => computeSeconds) - (launches * DEVICE_MS) / 1000) < 1e-9,
        );
        assert.equal(
          sumOf(reports, ({ haltedAtStep }) => haltedAtStep.reduce((sum, n) => sum + n, 0)),
          positions,
        );
        assert.equal(
          sumOf(reports, ({ haltedAtStep }) => haltedAtStep.reduce((sum, n, i) => sum + n * i, 0)),
          steps,
        );
        const active = sumOf(reports, ({ activeRows }) => activeRows);
        if (jobs.every(({ abortAfter }) => abortAfter === null)) assert.equal(active, steps);
        else assert.ok(active >= steps);
      },
    ),
    { numRuns: 150 },
  );
});
