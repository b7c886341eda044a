import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { EngineClient, type EngineSettings } from '../../src/engine/client.js';
import type { EngineTelemetry, ScoreJob } from '../../src/engine/protocol.js';
import type { WorkerSetup } from '../../src/engine/worker.js';
import { ServerError } from '../../src/errors.js';
import { describeModel } from '../fakes.js';
import { EMPTY_TELEMETRY } from './score-loop.js';
import { request, StubWorker, stubSetup } from './stub-worker.js';

const NEVER = new AbortController().signal;

interface Harness {
  readonly client: EngineClient;
  /** Every worker that was started; the last one is the one in force. */
  readonly workers: StubWorker[];
  readonly setups: WorkerSetup[];
  worker(): StubWorker;
  /** Moves the injected clock and fires the timers due. */
  pass(ms: number): void;
}

type Changes = Partial<Pick<EngineSettings, 'queueLanesMax' | 'queueTokensMax' | 'stallMsMax' | 'onStuck'>>;

function start(t: TestContext, changes: Changes = {}): Harness {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const workers: StubWorker[] = [];
  const setups: WorkerSetup[] = [];
  let nowMs = 1000;
  const client = new EngineClient({
    setup: stubSetup([describeModel({ id: 'a' }), describeModel({ id: 'b' })]),
    queueLanesMax: 4,
    queueTokensMax: 100,
    ...changes,
    spawn: (setup) => {
      setups.push(setup);
      const worker = new StubWorker();
      workers.push(worker);
      return worker;
    },
    now: () => nowMs,
  });
  const pass = (ms: number) => {
    // In small steps, or a timer would find that the clock has jumped.
    for (let left = ms; left > 0; left -= 10) {
      nowMs += Math.min(10, left);
      t.mock.timers.tick(Math.min(10, left));
    }
  };
  return { client, workers, setups, worker: () => workers.at(-1) as StubWorker, pass };
}

function started(t: TestContext, changes: Changes = {}): Harness {
  const harness = start(t, changes);
  harness.worker().ready();
  return harness;
}

function rejectsWith(work: Promise<unknown>, code: string, message = /./): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

test('it starts: not ready, then ready with what the worker says of itself', async (t) => {
  const { client, worker } = start(t);
  assert.equal(client.info().state, 'starting');
  await rejectsWith(client.score(request([1]), NEVER), 'NOT_READY', /loading its models/);
  worker().ready();
  await client.started();
  const { state, reason, device, backend, threads, restarts } = client.info();
  assert.deepEqual([state, reason, device, backend, threads, restarts], ['ready', null, 'cpu', 'stub', 3, 0]);
});

test('a worker that dies before it is ready: starting fails with its reason, and it is not started again', async (t) => {
  const { client, worker, workers, pass } = start(t);
  worker().die('no library');
  await assert.rejects(client.started(), /can't start: no library/);
  pass(60_000);
  assert.equal(workers.length, 1);
  assert.equal(client.info().state, 'stopped');
  await client.drain(0);
});

test('a package that the runtime refuses is told apart; a restart does not try it again', async (t) => {
  const { client, worker, setups, pass } = start(t);
  worker().post({ type: 'refused', model: 'b', reason: 'its shapes disagree' });
  worker().ready();
  assert.deepEqual(
    client.models().map(({ id }) => id),
    ['a'],
  );
  assert.deepEqual(client.refused(), [{ id: 'b', reason: 'its shapes disagree' }]);
  worker().die('crash');
  pass(50);
  assert.deepEqual(
    setups.at(-1)?.models.map(({ id }) => id),
    ['a'],
  );
});

test('windows come back in their order, with times from the worker', async (t) => {
  const { client, worker, pass } = started(t);
  const score = client.score(request([3, 2, 1]), NEVER);
  const [job] = worker().jobs;
  assert.ok(job !== undefined);
  assert.equal(job.submittedAtMs, 1000);
  pass(50);
  worker().answer(job, 1010, 1030);
  const { windows, queueMs, computeMs } = await score;
  assert.deepEqual(
    windows.map(({ positionSteps }) => positionSteps),
    [0, 1, 2],
  );
  assert.deepEqual([queueMs, computeMs], [10, 20]);
});

test('a request without windows is answered without the worker', async (t) => {
  const { client, worker } = started(t);
  assert.deepEqual(await client.score(request([]), NEVER), { windows: [], queueMs: 0, computeMs: 0 });
  assert.equal(worker().sent.length, 0);
});

test('a failure from the worker is the error of its request only', async (t) => {
  const { client, worker } = started(t);
  const first = client.score(request([3]), NEVER);
  const second = client.score(request([3]), NEVER);
  const [a, b] = worker().jobs;
  assert.ok(a !== undefined && b !== undefined && a.id !== b.id);
  worker().post({ type: 'failed', jobId: a.id, code: 'DEADLINE_EXCEEDED', message: 'too late' });
  await rejectsWith(first, 'DEADLINE_EXCEEDED', /too late/);
  worker().answer(b);
  await second;
});

test('QUEUE_FULL by lanes: the message names the option; an answer makes room', async (t) => {
  const { client, worker } = started(t, { queueLanesMax: 4 });
  const first = client.score(request([1, 1, 1]), NEVER);
  await rejectsWith(client.score(request([1, 1]), NEVER), 'QUEUE_FULL', /3 sequences .*--queue-lanes-max 4/);
  const second = client.score(request([1]), NEVER);
  worker().answer(worker().jobs[0] as never);
  await first;
  const third = client.score(request([1, 1, 1]), NEVER);
  for (const job of worker().jobs.slice(1)) worker().answer(job);
  await Promise.all([second, third]);
});

test('QUEUE_FULL by tokens: the message names the option; an abort makes room', async (t) => {
  const { client, worker } = started(t, { queueTokensMax: 100 });
  const hangUp = new AbortController();
  const first = client.score(request([60]), hangUp.signal);
  await rejectsWith(client.score(request([41]), NEVER), 'QUEUE_FULL', /60 tokens .*--queue-tokens-max 100/);
  hangUp.abort();
  await rejectsWith(first, 'CLIENT_CLOSED');
  const second = client.score(request([100]), NEVER);
  worker().answer(worker().jobs[1] as never);
  await second;
});

test('a request larger than a whole limit is let in when nothing else is there, and keeps others out', async (t) => {
  const { client, worker } = started(t, { queueLanesMax: 2, queueTokensMax: 10 });
  const large = client.score(request([50, 50, 50]), NEVER);
  await rejectsWith(client.score(request([1]), NEVER), 'QUEUE_FULL');
  worker().answer(worker().jobs[0] as never);
  await large;
  const small = client.score(request([1]), NEVER);
  await rejectsWith(client.score(request([50, 50, 50]), NEVER), 'QUEUE_FULL');
  worker().answer(worker().jobs[1] as never);
  await small;
});

test('an abort reaches the worker once, and a late answer is ignored', async (t) => {
  const { client, worker } = started(t);
  const hangUp = new AbortController();
  const score = client.score(request([3]), hangUp.signal);
  const [job] = worker().jobs;
  assert.ok(job !== undefined);
  hangUp.abort();
  await rejectsWith(score, 'CLIENT_CLOSED');
  worker().answer(job);
  assert.deepEqual(worker().sent.slice(1), [{ type: 'abort', jobId: job.id }]);
});

test('a signal that aborts after the answer, or before the request, sends nothing', async (t) => {
  const { client, worker } = started(t);
  const hangUp = new AbortController();
  const score = client.score(request([3]), hangUp.signal);
  worker().answer(worker().jobs[0] as never);
  await score;
  hangUp.abort();
  await rejectsWith(client.score(request([3]), hangUp.signal), 'CLIENT_CLOSED');
  assert.equal(worker().sent.length, 1);
});

test('a worker that dies: ENGINE_LOST for what was in, NOT_READY meanwhile, then another one serves', async (t) => {
  const { client, worker, workers, pass } = started(t, { queueLanesMax: 1 });
  const lost = client.score(request([3]), NEVER);
  worker().die('segmentation fault');
  await rejectsWith(lost, 'ENGINE_LOST', /segmentation fault/);
  assert.equal(client.info().state, 'restarting');
  await rejectsWith(client.score(request([3]), NEVER), 'NOT_READY', /died \(segmentation fault\)/);
  pass(50);
  assert.equal(workers.length, 2);
  await rejectsWith(client.score(request([3]), NEVER), 'NOT_READY');
  worker().ready();
  assert.deepEqual([client.info().state, client.info().restarts], ['ready', 1]);
  const served = client.score(request([3]), NEVER);
  worker().answer(worker().jobs[0] as never);
  await served;
});

test('what the dead worker was charged is given back', async (t) => {
  const { client, worker, pass } = started(t, { queueLanesMax: 3, queueTokensMax: 9 });
  const lost = client.score(request([3, 3, 3]), NEVER);
  worker().die('crash');
  await rejectsWith(lost, 'ENGINE_LOST');
  pass(50);
  worker().ready();
  const scores = [client.score(request([4]), NEVER), client.score(request([4]), NEVER)];
  for (const job of worker().jobs) worker().answer(job);
  await Promise.all(scores);
});

test('a worker that ends without an error is lost all the same', async (t) => {
  const { client, worker } = started(t);
  const lost = client.score(request([3]), NEVER);
  worker().die();
  await rejectsWith(lost, 'ENGINE_LOST', /without a reason/);
});

test('a worker that keeps dying is started less and less often; one that served a while is back at once', (t) => {
  const { client, worker, workers, pass } = started(t);
  const delays = [50, 100, 200, 400, 500, 500];
  for (const [i, delay] of delays.entries()) {
    worker().die('crash');
    pass(delay - 1);
    assert.equal(workers.length, i + 1, `not before ${delay} ms`);
    pass(1);
    assert.equal(workers.length, i + 2, `after ${delay} ms`);
  }
  worker().ready();
  pass(10_001);
  worker().die('crash');
  pass(50);
  assert.equal(workers.length, delays.length + 2);
  assert.equal(client.info().restarts, delays.length + 1);
});

test('telemetry goes to all who listen, until they stop', (t) => {
  const { client, worker } = started(t);
  const telemetry: EngineTelemetry = { ...EMPTY_TELEMETRY, lanesWaiting: 1 };
  const heard: [string, EngineTelemetry][] = [];
  const stop = client.onTelemetry((report) => heard.push(['first', report]));
  client.onTelemetry((report) => heard.push(['second', report]));
  worker().post({ type: 'telemetry', telemetry });
  stop();
  worker().post({ type: 'telemetry', telemetry });
  assert.deepEqual(heard, [
    ['first', telemetry],
    ['second', telemetry],
    ['second', telemetry],
  ]);
});

test('drain: what is in is finished, what is new is refused, and it resolves when the worker has ended', async (t) => {
  const { client, worker } = started(t);
  const score = client.score(request([3]), NEVER);
  let ended = false;
  const drained = client.drain(1000).then(() => {
    ended = true;
  });
  assert.equal(client.info().state, 'draining');
  await rejectsWith(client.score(request([3]), NEVER), 'DRAINING');
  worker().answer(worker().jobs[0] as never);
  await score;
  worker().post({ type: 'drained' });
  assert.equal(ended, false);
  worker().die();
  await drained;
  assert.equal(client.info().state, 'stopped');
});

test('drain: after its time the rest is aborted', async (t) => {
  const { client, worker, pass } = started(t);
  const score = client.score(request([3]), NEVER);
  const drained = client.drain(1000);
  pass(999);
  assert.deepEqual(
    worker().sent.map(({ type }) => type),
    ['submit', 'drain'],
  );
  pass(1);
  await rejectsWith(score, 'DRAINING', /--drain-ms-max/);
  assert.deepEqual(
    worker().sent.map(({ type }) => type),
    ['submit', 'drain', 'abort'],
  );
  worker().die();
  await drained;
});

test('drain: a worker that dies meanwhile is not started again', async (t) => {
  const { client, worker, workers, pass } = started(t);
  const score = client.score(request([3]), NEVER);
  const drained = client.drain(1000);
  worker().die('crash');
  await rejectsWith(score, 'ENGINE_LOST');
  await drained;
  pass(60_000);
  assert.equal(workers.length, 1);
});

test('drain: between death and restart there is nothing to wait for', async (t) => {
  const { client, worker, workers, pass } = started(t);
  worker().die('crash');
  await client.drain(1000);
  pass(60_000);
  assert.equal(workers.length, 1);
  assert.equal(client.info().state, 'stopped');
});

test('drain: asked twice, both resolve, and the worker is told once', async (t) => {
  const { client, worker } = started(t);
  const both = [client.drain(1000), client.drain(1000)];
  worker().die();
  await Promise.all(both);
  assert.equal(worker().sent.length, 1);
});

test('drain: before it was ready, whoever waits for the start is told', async (t) => {
  const { client, worker } = start(t);
  const drained = client.drain(1000);
  worker().die();
  await drained;
  await assert.rejects(client.started(), /can't start/);
});

test('a worker that gives no sign of life while it has work: its requests are answered, it is ended, another one starts', async (t) => {
  const { client, worker, workers, pass } = started(t, { stallMsMax: 500 });
  const [stalled] = workers;
  assert.ok(stalled !== undefined);
  pass(60_000);
  assert.equal(stalled.terminated, false, 'without work silence means nothing');
  const lost = client.score(request([3]), NEVER);
  pass(400);
  stalled.post({ type: 'telemetry', telemetry: EMPTY_TELEMETRY });
  pass(400);
  assert.equal(stalled.terminated, false, 'it was heard of 400 ms ago');
  pass(100);
  await rejectsWith(lost, 'ENGINE_LOST', /no sign of life for 500 ms \(--engine-stall-ms-max\)/);
  assert.equal(stalled.terminated, true);
  await rejectsWith(client.score(request([3]), NEVER), 'NOT_READY', /stalled/);
  stalled.die();
  pass(50);
  worker().ready();
  const next = client.score(request([3]), NEVER);
  worker().answer(worker().jobs[0] as ScoreJob);
  await next;
});

test('a thread that cannot be ended: whoever must end the process is told', async (t) => {
  const stuck: string[] = [];
  const { client, workers, pass } = started(t, { stallMsMax: 500, onStuck: (reason) => stuck.push(reason) });
  const lost = client.score(request([3]), NEVER);
  pass(500);
  await rejectsWith(lost, 'ENGINE_LOST');
  pass(4_999);
  assert.deepEqual(stuck, []);
  pass(1);
  assert.match(stuck[0] ?? '', /hangs in native code/);
  workers[0]?.die();
});
