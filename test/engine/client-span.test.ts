/** Long texts and sessions through the client, with a worker that says what the test says. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { EngineClient } from '../../src/engine/client.js';
import type { SpanRequest } from '../../src/engine/engine.js';
import type { FromEngine, SpanBlockResult, SpanJob } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import { describeSpanModel } from '../fake-span.js';
import { StubWorker, stubSetup } from './stub-worker.js';

const NEVER = new AbortController().signal;

function started(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const worker = new StubWorker();
  const client = new EngineClient({
    setup: stubSetup([describeSpanModel({ id: 'm' })], 16),
    queueLanesMax: 2,
    queueTokensMax: 20,
    spawn: () => worker,
    now: () => 1000,
  });
  worker.ready();
  const jobs = () => worker.sent.flatMap((sent) => (sent.type === 'submit' ? [sent.job as SpanJob] : []));
  const block = (jobId: number, index: number, start: number, position: number, length: number): void =>
    worker.post({ type: 'block', jobId, index, start, position, result: result(start, length) });
  const done = (jobId: number) => worker.post({ type: 'done', jobId, startedAtMs: 1000, finishedAtMs: 1000 });
  return { client, worker, jobs, block, done };
}

function request(lengths: readonly number[], changes: Partial<SpanRequest> = {}): SpanRequest {
  const texts = lengths.map((length) => new Int32Array(length));
  return { model: 'm', texts, spanCap: null, topLogprobs: 0, session: null, deadlineAtMs: null, ...changes };
}

/** Token i of a text scores -i. */
function result(start: number, length: number): SpanBlockResult {
  const ids = new Int32Array(0);
  const logprobs = Float32Array.from({ length }, (_, i) => -(start + i));
  return { logprobs, topIds: ids, topLogprobs: new Float32Array(0), spans: new Float32Array(0) };
}

test('without a listener the blocks of each text are put together, and nobody is waited for', async (t) => {
  const { client, jobs, block, done } = started(t);
  const scoring = client.scoreStream(request([20, 3]), NEVER);
  const [job] = jobs();
  assert.ok(job !== undefined);
  assert.equal(job.blocksAhead, null);
  block(job.id, 0, 0, 0, 16);
  block(job.id, 1, 0, 0, 3);
  block(job.id, 0, 16, 16, 4);
  done(job.id);
  const { texts } = await scoring;
  assert.deepEqual(
    texts.map(({ logprobs }) => [...logprobs]),
    [20, 3].map((length) => Array.from({ length }, (_, i) => -i)),
  );
});

test('a listener hears each block; the worker hears that it was taken when the listener has taken it', async (t) => {
  const { client, worker, jobs, block, done } = started(t);
  const taken: (() => void)[] = [];
  const scoring = client.scoreStream(
    request([40], { session: { key: 's', continues: true, ends: false } }),
    NEVER,
    () => new Promise((resolve) => taken.push(resolve)),
  );
  const [job] = jobs();
  assert.ok(job !== undefined);
  assert.equal(job.blocksAhead, 8);
  block(job.id, 0, 0, 100, 16);
  block(job.id, 0, 16, 116, 16);
  await new Promise(setImmediate);
  const told = () => worker.sent.filter(({ type }) => type === 'taken');
  assert.equal(told().length, 0);
  taken[0]?.();
  await new Promise(setImmediate);
  assert.deepEqual(told(), [{ type: 'taken', jobId: job.id, index: 0 }]);
  block(job.id, 0, 32, 132, 8);
  done(job.id);
  const { texts, position } = await scoring;
  assert.equal(texts[0]?.logprobs.length, 0);
  assert.equal(position, 140);
});

test('a text of any length is charged a lane of the queue, and no tokens', async (t) => {
  const { client } = started(t);
  const closed = new AbortController();
  const left = [client.scoreStream(request([1000]), closed.signal), client.scoreStream(request([1000]), closed.signal)];
  await assert.rejects(client.scoreStream(request([1]), NEVER), /2 sequences are waiting or running/);
  closed.abort();
  for (const one of left) await assert.rejects(one, { code: 'CLIENT_CLOSED' });
});

test('ending a session: the worker says whether there was one, with the field at fault', async (t) => {
  const { client, worker, done } = started(t);
  const last = () => worker.sent.at(-1) as { type: string; jobId: number; key: string };
  const ended = client.endSession('m', 's');
  assert.deepEqual({ ...last(), jobId: 0 }, { type: 'end-session', jobId: 0, model: 'm', key: 's' });
  done(last().jobId);
  await ended;
  const unknown = client.endSession('m', 't');
  const failed: FromEngine = {
    type: 'failed',
    jobId: last().jobId,
    code: 'SESSION_UNKNOWN',
    message: 'begin it',
    param: 'session',
  };
  worker.post(failed);
  await assert.rejects(unknown, (error) => error instanceof ServerError && error.param === 'session');
  const lost = client.endSession('m', 'u');
  worker.die('crash');
  await assert.rejects(lost, { code: 'ENGINE_LOST' });
});
