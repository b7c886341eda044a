/** The loop's messages one by one; test/sim/ asks the same of thousands of schedules. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineLoop, TELEMETRY_INTERVAL_MS } from '../../src/engine/loop.js';
import type { FromEngine, ScoreJob, ToEngine } from '../../src/engine/protocol.js';
import { ScoreStage } from '../../src/engine/score-stage.js';
import { NOTHING_YET, type Stage } from '../../src/engine/stage.js';
import { FakeFamily } from '../fake-family.js';
import { scoreCounts, scoreLoop } from './score-loop.js';

const LIMITS = { rowsMax: 32, lanesMax: 4, slotsMax: 64, finishRowsMax: 16 };

function job(id: number, lengths: readonly number[], changes: Partial<ScoreJob> = {}): ScoreJob {
  return {
    kind: 'score',
    id,
    model: 'm',
    windows: lengths.map((length) => ({ ids: new Int32Array(length).fill(id), scoreFrom: 0 })),
    budget: { maxSteps: 8, minSteps: 1, threshold: 0.99 },
    topLogprobs: 0,
    submittedAtMs: 0,
    deadlineAtMs: null,
    ...changes,
  };
}

const submit = (...args: Parameters<typeof job>): ToEngine => ({ type: 'submit', job: job(...args) });
const DRAIN: ToEngine = { type: 'drain' };

/** Runs a loop over these messages: all there at once, then, each time the loop waits, the next of `later`. */
async function runLoop(
  messages: readonly ToEngine[],
  { later = [DRAIN], stepMs = 1, models = ['m'] }: { later?: ToEngine[]; stepMs?: number; models?: string[] } = {},
): Promise<{ posted: FromEngine[]; family: FakeFamily; waits: number; turns: string[] }> {
  const inbox = [...messages];
  const posted: FromEngine[] = [];
  let nowMs = 0;
  let waits = 0;
  const turns: string[] = [];
  const families = models.map(
    (id) =>
      new FakeFamily(LIMITS, (kind) => {
        turns.push(`${id} ${kind}`);
        nowMs += stepMs;
      }),
  );
  const loop = scoreLoop({
    models: families.map((family, i) => ({ id: models[i] as string, maxSteps: 8, family })),
    limits: LIMITS,
    queueWaitMsMax: 1000,
    now: () => nowMs,
    receive: () => inbox.shift() ?? null,
    wait: async () => {
      const message = later[waits++];
      assert.ok(message !== undefined, 'the loop waits for a message that will not come');
      inbox.push(message);
    },
    post: (message) => posted.push(message),
  });
  await loop.run();
  return { posted, family: families[0] ?? new FakeFamily(LIMITS), waits, turns };
}

const kinds = (posted: readonly FromEngine[]) => posted.map(({ type }) => type).filter((type) => type !== 'telemetry');

test('windows come before done, and drained last', async () => {
  const { posted } = await runLoop([submit(1, [3, 4])]);
  assert.deepEqual(kinds(posted), ['window', 'window', 'done', 'drained']);
  assert.equal(posted.at(-1)?.type, 'drained');
});

test('a drain first finishes what is in', async () => {
  const { posted, waits } = await runLoop([submit(1, [3]), submit(2, [5]), DRAIN], { later: [] });
  assert.deepEqual(kinds(posted).toSorted(), ['done', 'done', 'drained', 'window', 'window']);
  assert.equal(waits, 0);
});

test('an engine that serves no model still drains, and refuses a job', async () => {
  const { posted } = await runLoop([submit(1, [3])], { models: [] });
  assert.deepEqual(kinds(posted), ['failed', 'drained']);
});

test('an unknown model fails its job and no other', async () => {
  const { posted } = await runLoop([submit(1, [3], { model: 'other' }), submit(2, [3])]);
  assert.ok(posted[0]?.type === 'failed' && posted[0].jobId === 1 && posted[0].code === 'UNKNOWN_MODEL');
  assert.equal(posted[0].message, 'no model other that can score is served: GET /v1/models lists those that are');
  assert.deepEqual(kinds(posted), ['failed', 'window', 'done', 'drained']);
});

test('a job whose deadline passed before it came is failed without a step', async () => {
  const { posted, family } = await runLoop([submit(1, [3], { deadlineAtMs: 0 })]);
  assert.equal(posted[0]?.type === 'failed' && posted[0].code, 'DEADLINE_EXCEEDED');
  assert.equal(family.totals.steps, 0);
});

test('a job that waits for too long is failed as by a full queue, with the option to raise', async () => {
  const first = submit(1, Array(8).fill(30));
  const { posted } = await runLoop([first, submit(2, [30])], { stepMs: 600 });
  const failed = posted.find(({ type }) => type === 'failed');
  assert.ok(failed?.type === 'failed' && failed.jobId === 2 && failed.code === 'QUEUE_FULL');
  assert.match(failed.message, /--queue-wait-ms-max/);
});

/** Job 1 teaches what jobs take; then job 2 keeps the engine busy, and job 3 arrives behind it with this much time left. */
async function behindALongOne(leftMs: number): Promise<FromEngine[]> {
  const posted: FromEngine[] = [];
  let nowMs = 0;
  const family = new FakeFamily(LIMITS, () => {
    nowMs += 10;
  });
  const arrivals: { readonly atMs: number; readonly message: () => ToEngine }[] = [
    { atMs: 0, message: () => submit(1, [30]) },
    { atMs: 100, message: () => submit(2, Array(8).fill(30)) },
    { atMs: 110, message: () => submit(3, [30], { submittedAtMs: nowMs, deadlineAtMs: nowMs + leftMs }) },
    { atMs: 5000, message: () => DRAIN },
  ];
  await scoreLoop({
    models: [{ id: 'm', maxSteps: 8, family }],
    limits: LIMITS,
    queueWaitMsMax: 10_000,
    now: () => nowMs,
    receive: () =>
      nowMs >= (arrivals[0]?.atMs ?? Number.POSITIVE_INFINITY) ? (arrivals.shift()?.message() ?? null) : null,
    wait: async () => {
      nowMs += 10;
    },
    post: (message) => posted.push(message),
  }).run();
  return posted;
}

test('a job whose deadline comes too near while it waits is given up before it begins, not midway', async () => {
  const posted = await behindALongOne(150);
  const one = posted.find((message) => message.type === 'done' && message.jobId === 1);
  assert.ok(one?.type === 'done');
  const computeMs = one.finishedAtMs - one.startedAtMs;
  assert.ok(computeMs > 20 && computeMs < 150, `${computeMs} ms`);
  const failed = posted.find(({ type }) => type === 'failed');
  assert.ok(failed?.type === 'failed' && failed.jobId === 3 && failed.code === 'DEADLINE_EXCEEDED');
  assert.match(failed.message, /too near to begin/);
});

test('a job that has less time than jobs take is not given up for that', async () => {
  const posted = await behindALongOne(20);
  const failed = posted.find(({ type }) => type === 'failed');
  assert.ok(failed?.type === 'failed' && failed.jobId === 3 && failed.code === 'DEADLINE_EXCEEDED');
  assert.match(failed.message, /passed before the request finished/);
});

test('an aborted job says nothing any more', async () => {
  const { posted } = await runLoop([submit(1, [20]), { type: 'abort', jobId: 1 }, submit(2, [3])]);
  assert.deepEqual(kinds(posted), ['window', 'done', 'drained']);
  assert.ok(posted.every((message) => !('jobId' in message) || message.jobId === 2));
});

test('an abort of a job that has left, or never was, is harmless', async () => {
  const { posted } = await runLoop([submit(1, [2])], {
    later: [{ type: 'abort', jobId: 1 }, { type: 'abort', jobId: 9 }, DRAIN],
  });
  assert.deepEqual(kinds(posted), ['window', 'done', 'drained']);
});

test('the model that has used the least time takes the next turn', async () => {
  const budget = { maxSteps: 2, minSteps: 2, threshold: 0.99 };
  const jobs = [submit(1, [3], { budget }), submit(2, [3], { model: 'n', budget })];
  const { turns } = await runLoop(jobs, { models: ['m', 'n'] });
  assert.deepEqual(turns, ['m advance', 'n advance', 'm advance', 'n advance', 'm finish', 'n finish']);
});

test('when it falls idle it reports at once, with all gauges at zero', async () => {
  const { posted } = await runLoop([submit(1, [3])]);
  const reports = posted.flatMap((message) => (message.type === 'telemetry' ? [message.telemetry] : []));
  assert.equal(reports.length, 1, 'the job took less than an interval');
  const [report] = reports;
  assert.deepEqual([report?.lanesWaiting, report?.lanesRunning, report?.slotsUsed, report?.slotsTotal], [0, 0, 0, 64]);
});

test('while it works it reports once an interval', async () => {
  const stepMs = TELEMETRY_INTERVAL_MS / 4;
  const { posted, family } = await runLoop([submit(1, Array(12).fill(30))], { stepMs });
  const reports = posted.filter(({ type }) => type === 'telemetry').length;
  const elapsedMs = (family.totals.steps + 12) * stepMs;
  assert.ok(reports > 5 && reports <= elapsedMs / TELEMETRY_INTERVAL_MS + 1, `${reports} in ${elapsedMs} ms`);
});

test('compute time is that of the graphs', async () => {
  const { posted, family } = await runLoop([submit(1, [3])], { stepMs: 500 });
  const seconds = posted.reduce(
    (sum, message) =>
      sum + (message.type === 'telemetry' ? (scoreCounts(message.telemetry)[0]?.computeSeconds ?? 0) : 0),
    0,
  );
  assert.equal(seconds, (family.totals.steps + 1) * 0.5);
});

test('a graph that fails ends the loop: what the pools hold is unknown', async () => {
  const family = new FakeFamily(LIMITS, () => {
    throw new Error('out of memory');
  });
  const inbox = [submit(1, [3])];
  const loop = scoreLoop({
    models: [{ id: 'm', maxSteps: 8, family }],
    limits: LIMITS,
    queueWaitMsMax: 1000,
    now: () => 0,
    receive: () => inbox.shift() ?? null,
    wait: async () => assert.fail('nothing is left to wait for'),
    post: () => {},
  });
  await assert.rejects(loop.run(), /out of memory/);
});

test('a stage whose launches have not run lets the others work, and nothing is told of it', async () => {
  const posted: FromEngine[] = [];
  const inbox = [submit(1, [4])];
  let looks = 0;
  let nowMs = 0;
  const host = new ScoreStage({ id: 'm', maxSteps: 8, family: new FakeFamily(LIMITS, () => (nowMs += 1)) }, LIMITS);
  const none = { lanesWaiting: 0, lanesRunning: 0, slotsUsed: 0, slotsTotal: 0, cacheRowsUsed: 0, cacheRowsTotal: 0 };
  // Never done before the other one is.
  const looking: Stage = {
    ...{ model: 'gpu', kind: 'translate', submit: () => 1, abort: () => {}, expire: () => [], settle: () => {} },
    turn: async () => {
      looks += 1;
      return posted.some(({ type }) => type === 'done') ? null : NOTHING_YET;
    },
    ...{ gauges: () => none, telemetry: () => [] },
  };
  const loop = new EngineLoop({
    stages: [looking, host],
    queueWaitMsMax: 1000,
    now: () => nowMs,
    receive: () => inbox.shift() ?? null,
    wait: async () => void inbox.push(DRAIN),
    post: (message) => posted.push(message),
  });
  await loop.run();
  assert.ok(looks > 1);
  assert.deepEqual(
    posted.map(({ type }) => type).filter((type) => type !== 'telemetry'),
    ['window', 'done', 'drained'],
  );
});
