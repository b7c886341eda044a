/** One engine over several workers: where requests go, how they are dealt out, and what happens when one of the workers is away. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { EngineClient } from '../../src/engine/client.js';
import { EngineFleet } from '../../src/engine/fleet.js';
import type { EngineTelemetry, Job } from '../../src/engine/protocol.js';
import { startEngine } from '../../src/engine/start.js';
import { ServerError } from '../../src/errors.js';
import { describeModel } from '../fakes.js';
import { MODEL_BUDGET } from '../families/scoring.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';
import { EMPTY_TELEMETRY } from './score-loop.js';
import { request, result, StubWorker, stubSetup } from './stub-worker.js';

const NEVER = new AbortController().signal;

interface Harness {
  readonly fleet: EngineFleet;
  readonly workers: readonly StubWorker[];
  readonly members: readonly EngineClient[];
}

function fleetOf(t: TestContext, count = 2, queueLanesMax = 100): Harness {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const workers = Array.from({ length: count }, () => new StubWorker());
  const members = workers.map((worker) => {
    const client = new EngineClient({
      setup: stubSetup([describeModel({ id: 'a' })]),
      queueLanesMax,
      queueTokensMax: 1000,
      spawn: () => worker,
      now: () => 0,
    });
    worker.ready();
    return client;
  });
  return { fleet: new EngineFleet(members), workers, members };
}

function jobsOf(worker: StubWorker): Job[] {
  return worker.sent.flatMap((message) => (message.type === 'submit' ? [message.job] : []));
}

/** Answers a scoring job; each window's log-probabilities are all its length. */
function answer(worker: StubWorker, job: Job): void {
  assert.ok(job.kind === 'score');
  job.windows.forEach(({ ids }, index) => {
    const logprobs = new Float32Array(ids.length).fill(ids.length);
    worker.post({ type: 'window', jobId: job.id, index, result: { ...result(index), logprobs } });
  });
  worker.post({ type: 'done', jobId: job.id, startedAtMs: 1, finishedAtMs: 2 });
}

test('a request of several windows is dealt out over all workers, and its results are in their order', async (t) => {
  const { fleet, workers } = fleetOf(t);
  const lengths = [3, 40, 5, 30];
  const scored = fleet.score(request(lengths), NEVER);
  const tokens = workers.map((worker) =>
    jobsOf(worker).flatMap((job) => (job.kind === 'score' ? job.windows.map(({ ids }) => ids.length) : [])),
  );
  assert.deepEqual(tokens, [[40], [30, 5, 3]], 'the longest first, each to whoever has least');
  for (const worker of workers) for (const job of jobsOf(worker)) answer(worker, job);
  const { windows } = await scored;
  assert.deepEqual(
    windows.map(({ logprobs }) => logprobs[0]),
    lengths,
  );
});

test('a worker that is away gets nothing, and is told of; with none left the request says why', async (t) => {
  const { fleet, workers } = fleetOf(t);
  workers[0]?.die('no more memory');
  assert.equal(fleet.info().state, 'ready');
  assert.match(fleet.info().deviceWarnings.join(), /does not serve: .*no more memory/);
  const scored = fleet.score(request([1, 2, 3]), NEVER);
  assert.equal(jobsOf(workers[0] as StubWorker).length, 0);
  for (const job of jobsOf(workers[1] as StubWorker)) answer(workers[1] as StubWorker, job);
  assert.equal((await scored).windows.length, 3);
  workers[1]?.die('nor here');
  assert.equal(fleet.info().state, 'restarting');
  await assert.rejects(
    fleet.score(request([1]), NEVER),
    (error) => error instanceof ServerError && error.code === 'NOT_READY',
  );
});

test('one share is refused: what the request has elsewhere is given up', async (t) => {
  const { fleet, workers, members } = fleetOf(t, 2, 2);
  // The second worker is full, the first has room for one more sequence.
  const before = members[1]?.score(request([1, 1]), NEVER);
  await assert.rejects(
    fleet.score(request([9, 9]), NEVER),
    (error) => error instanceof ServerError && error.code === 'QUEUE_FULL',
  );
  const [job] = jobsOf(workers[0] as StubWorker);
  assert.ok(job);
  assert.deepEqual(workers[0]?.sent.at(-1), { type: 'abort', jobId: job.id });
  answer(workers[1] as StubWorker, jobsOf(workers[1] as StubWorker)[0] as Job);
  await before;
});

test('a session stays with one worker, whatever the load', async (t) => {
  const { fleet, workers } = fleetOf(t, 3);
  const homes = new Set<number>();
  for (const key of ['s1', 's2', 's3', 's4', 's5', 's6', 's7', 's8']) {
    const counts = () => workers.map((worker) => jobsOf(worker).length);
    const before = counts();
    for (const continues of [false, true]) {
      void fleet
        .scoreStream(
          {
            model: 'a',
            texts: [new Int32Array(4)],
            topLogprobs: 0,
            spanCap: null,
            session: { key, continues, ends: false },
            deadlineAtMs: null,
          },
          NEVER,
        )
        .catch(() => {});
    }
    const grown = counts().map((count, i) => count - (before[i] as number));
    assert.deepEqual(grown.toSorted(), [0, 0, 2], key);
    homes.add(grown.indexOf(2));
  }
  assert.ok(homes.size > 1, 'names are spread over the workers');
});

test('reports: counters of the one that reports, gauges of all', (t) => {
  const { fleet, workers } = fleetOf(t);
  const heard: EngineTelemetry[] = [];
  fleet.onTelemetry((telemetry) => heard.push(telemetry));
  const device = (name: string) => ({ name, usedBytes: 1, totalBytes: 10, busySeconds: 1 });
  workers[0]?.post({ type: 'telemetry', telemetry: { ...EMPTY_TELEMETRY, lanesRunning: 3, device: device('cuda:0') } });
  workers[1]?.post({ type: 'telemetry', telemetry: { ...EMPTY_TELEMETRY, lanesRunning: 4, device: device('cuda:1') } });
  assert.deepEqual(
    heard.map(({ lanesRunning, device }) => [lanesRunning, device?.name]),
    [
      [3, 'cuda:0'],
      [7, 'cuda:1'],
    ],
  );
  assert.deepEqual(fleet.info().deviceMemory, { usedBytes: 2, totalBytes: 20 });
});

test('a model that one worker can not open is taken from all', async (t) => {
  const { fleet, workers, members } = fleetOf(t);
  const loading = fleet.load(describeModel({ id: 'new' }));
  const idOf = (worker: StubWorker | undefined, type: 'open' | 'close') => {
    const message = worker?.sent.findLast((sent) => sent.type === type);
    assert.ok(message !== undefined && 'jobId' in message);
    return message.jobId;
  };
  workers[0]?.post({ type: 'done', jobId: idOf(workers[0], 'open'), startedAtMs: 0, finishedAtMs: 0 });
  const why = { code: 'INVALID_REQUEST', message: 'no room' } as const;
  workers[1]?.post({ type: 'failed', jobId: idOf(workers[1], 'open'), ...why });
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  workers[0]?.post({ type: 'done', jobId: idOf(workers[0], 'close'), startedAtMs: 0, finishedAtMs: 0 });
  await assert.rejects(loading, /no room/);
  assert.deepEqual(
    members.map((member) => member.models().map(({ id }) => id)),
    [['a'], ['a']],
  );
});

test('two real workers in one process compute what one does, to the bit', { timeout: 60_000 }, async () => {
  const config = parseConfig(['--threads', '1', '--device', 'cpu'], {});
  const model = await shippedModel('int8');
  const start = () => startEngine(config, [model]) as Promise<EngineClient>;
  const [first, second] = [await start(), await start()];
  try {
    const windows = goldenTexts().map(({ ids }) => ({ ids: Int32Array.from(ids), scoreFrom: 0 }));
    const asked = { ...request([]), model: model.id, budget: MODEL_BUDGET, windows };
    const one = await first.score(asked, NEVER);
    const both = await new EngineFleet([first, second]).score(asked, NEVER);
    assert.deepEqual(both.windows, one.windows);
  } finally {
    await Promise.all([first.drain(0), second.drain(0)]);
  }
});

test('of a list of GPUs none of which works, the CPU serves alone; one that works beside one that does not is refused', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const start = (found: readonly string[]) => {
    const devices = [...found];
    const spawned: StubWorker[] = [];
    const config = parseConfig(['--device', 'cuda:0,cuda:1'], {});
    const engine = startEngine(config, [describeModel({ id: 'a' })], () => {
      const worker = new StubWorker();
      const device = devices.shift() as string;
      spawned.push(worker);
      queueMicrotask(() =>
        worker.post({ type: 'ready', device, deviceReason: `of ${device}`, backend: 'b', threads: 1 }),
      );
      return worker;
    });
    return { engine, spawned };
  };
  const both = start(['cuda:0', 'cuda:1']);
  assert.ok((await both.engine) instanceof EngineFleet);
  assert.equal((await both.engine).info().device, 'cuda:0,cuda:1');
  const none = start(['cpu']);
  assert.equal((await none.engine).info().device, 'cpu');
  assert.equal(none.spawned.length, 1);
  const half = start(['cuda:0', 'cpu']);
  const refused = assert.rejects(half.engine, /cuda:1 can't be used: of cpu; leave it out of --device/);
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  for (const worker of half.spawned) worker.die();
  await refused;
});
