/** Translating through the client, with a worker that says what the test says. What scoring shares with it is in client.test.ts. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { EngineClient } from '../../src/engine/client.js';
import type { TranslateListener, TranslateRequest } from '../../src/engine/engine.js';
import type { SentenceResult, TranslateJob } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import { describeTranslator } from '../fakes.js';
import { StubWorker, stubSetup } from './stub-worker.js';

const NEVER = new AbortController().signal;
const BUDGET = { maxSteps: 6, minSteps: 1, threshold: 0.99 };

function started(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const worker = new StubWorker();
  let nowMs = 1000;
  const client = new EngineClient({
    setup: stubSetup([describeTranslator({ id: 'mt' })]),
    queueLanesMax: 3,
    queueTokensMax: 20,
    spawn: () => worker,
    now: () => nowMs,
  });
  worker.ready();
  const pass = (ms: number) => {
    nowMs += ms;
  };
  const jobs = () => worker.sent.flatMap((sent) => (sent.type === 'submit' ? [sent.job as TranslateJob] : []));
  return { client, worker, pass, jobs };
}

function request(lengths: readonly number[], changes: Partial<TranslateRequest> = {}): TranslateRequest {
  return {
    model: 'mt',
    sentences: lengths.map((length) => new Int32Array(length)),
    encoderBudget: BUDGET,
    decoderBudget: BUDGET,
    beam: 1,
    lengthPenalty: 1,
    maxNewTokens: lengths.map(() => 8),
    streamTokens: false,
    deadlineAtMs: null,
    ...changes,
  };
}

/** A result that can be told from others. */
function result(index: number, firstTokenAtMs = 1000): SentenceResult {
  const steps = { encoderSteps: index, decoderSteps: 0, decoderPositions: 0 };
  return { hypotheses: [], encoderDepths: Uint8Array.of(index), ...steps, firstTokenAtMs };
}

function recorder(): { heard: string[]; listener: TranslateListener } {
  const heard: string[] = [];
  const listener: TranslateListener = {
    token: (index, id, logprob, depth) => heard.push(`token ${index} ${id} ${logprob} ${depth}`),
    sentence: (index, { encoderSteps }) => heard.push(`sentence ${index} ${encoderSteps}`),
  };
  return { heard, listener };
}

function rejectsWith(work: Promise<unknown>, code: string, message = /./): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

test('the job says all that the request said, and when it was submitted', async (t) => {
  const { client, worker, jobs } = started(t);
  const asked = request([3, 2], { beam: 4, lengthPenalty: 0.6, streamTokens: true, deadlineAtMs: 5000 });
  const translated = client.translate(asked, NEVER);
  const [job] = jobs();
  assert.ok(job !== undefined);
  assert.deepEqual(job, { ...asked, kind: 'translate', id: job.id, submittedAtMs: 1000 });
  for (const index of [0, 1]) worker.post({ type: 'sentence', jobId: job.id, index, result: result(index) });
  worker.post({ type: 'done', jobId: job.id, startedAtMs: 1000, finishedAtMs: 1000 });
  await translated;
});

test('sentences come back in their order, with times; the first token is that of whichever sentence was first', async (t) => {
  const { client, worker, pass, jobs } = started(t);
  const translated = client.translate(request([1, 2, 3]), NEVER);
  const id = jobs()[0]?.id as number;
  pass(100);
  const firstTokenAtMs = [1060, 1030, 1050];
  for (const index of [2, 0, 1]) {
    worker.post({ type: 'sentence', jobId: id, index, result: result(index, firstTokenAtMs[index]) });
  }
  worker.post({ type: 'done', jobId: id, startedAtMs: 1010, finishedAtMs: 1090 });
  const { sentences, queueMs, computeMs, firstTokenMs } = await translated;
  assert.deepEqual(
    sentences.map(({ encoderSteps }) => encoderSteps),
    [0, 1, 2],
  );
  assert.deepEqual([queueMs, computeMs, firstTokenMs], [10, 80, 30]);
});

test('the listener hears tokens and sentences as they come, each before the answer', async (t) => {
  const { client, worker, jobs } = started(t);
  const { heard, listener } = recorder();
  const translated = client.translate(request([1, 1], { streamTokens: true }), NEVER, listener);
  const done = translated.then(() => heard.push('answered'));
  const jobId = jobs()[0]?.id as number;
  const token = (index: number, id: number) =>
    worker.post({ type: 'token', jobId, index, id, logprob: -0.5, depth: 3 });
  token(1, 50);
  token(0, 40);
  token(1, 51);
  worker.post({ type: 'sentence', jobId, index: 1, result: result(1) });
  token(0, 41);
  worker.post({ type: 'sentence', jobId, index: 0, result: result(0) });
  assert.deepEqual(heard, [
    'token 1 50 -0.5 3',
    'token 0 40 -0.5 3',
    'token 1 51 -0.5 3',
    'sentence 1 1',
    'token 0 41 -0.5 3',
    'sentence 0 0',
  ]);
  worker.post({ type: 'done', jobId, startedAtMs: 1000, finishedAtMs: 1000 });
  await done;
  assert.equal(heard.at(-1), 'answered');
});

test('each listener hears of its own request only', async (t) => {
  const { client, worker, jobs } = started(t);
  const [first, second] = [recorder(), recorder()];
  const both = [first, second].map(({ listener }) => client.translate(request([1]), NEVER, listener));
  const [a, b] = jobs();
  assert.ok(a !== undefined && b !== undefined);
  worker.post({ type: 'sentence', jobId: b.id, index: 0, result: result(2) });
  worker.post({ type: 'sentence', jobId: a.id, index: 0, result: result(1) });
  for (const { id } of [a, b]) worker.post({ type: 'done', jobId: id, startedAtMs: 1000, finishedAtMs: 1000 });
  await Promise.all(both);
  assert.deepEqual([first.heard, second.heard], [['sentence 0 1'], ['sentence 0 2']]);
});

test('a request without sentences is answered without the worker', async (t) => {
  const { client, worker } = started(t);
  assert.deepEqual(await client.translate(request([]), NEVER), {
    sentences: [],
    queueMs: 0,
    computeMs: 0,
    firstTokenMs: 0,
  });
  assert.equal(worker.sent.length, 0);
});

test('a failure rejects, and the listener hears nothing after it', async (t) => {
  const { client, worker, jobs } = started(t);
  const { heard, listener } = recorder();
  const translated = client.translate(request([1, 1]), NEVER, listener);
  const jobId = jobs()[0]?.id as number;
  worker.post({ type: 'sentence', jobId, index: 1, result: result(1) });
  worker.post({ type: 'failed', jobId, code: 'DEADLINE_EXCEEDED', message: 'too late' });
  await rejectsWith(translated, 'DEADLINE_EXCEEDED', /too late/);
  worker.post({ type: 'sentence', jobId, index: 0, result: result(0) });
  assert.deepEqual(heard, ['sentence 1 1']);
});

test('a client that hangs up: the worker is told once, the listener hears nothing more, and its place is free', async (t) => {
  const { client, worker, jobs } = started(t);
  const hangUp = new AbortController();
  const { heard, listener } = recorder();
  const translated = client.translate(request([1, 1, 1], { streamTokens: true }), hangUp.signal, listener);
  await rejectsWith(client.translate(request([1]), NEVER), 'QUEUE_FULL', /--queue-lanes-max 3/);
  const jobId = jobs()[0]?.id as number;
  hangUp.abort();
  await rejectsWith(translated, 'CLIENT_CLOSED');
  worker.post({ type: 'token', jobId, index: 0, id: 5, logprob: -1, depth: 2 });
  worker.post({ type: 'done', jobId, startedAtMs: 1000, finishedAtMs: 1000 });
  assert.deepEqual(heard, []);
  assert.deepEqual(
    worker.sent.map(({ type }) => type),
    ['submit', 'abort'],
  );
  const next = client.translate(request([1, 1, 1]), NEVER);
  const { id } = jobs()[1] as TranslateJob;
  for (const index of [0, 1, 2]) worker.post({ type: 'sentence', jobId: id, index, result: result(index) });
  worker.post({ type: 'done', jobId: id, startedAtMs: 1000, finishedAtMs: 1000 });
  await next;
});

test('it is charged by its source tokens, as scoring is', async (t) => {
  const { client, worker } = started(t);
  const first = client.translate(request([15]), NEVER);
  await rejectsWith(client.translate(request([6]), NEVER), 'QUEUE_FULL', /15 tokens .*--queue-tokens-max 20/);
  worker.die('crash');
  await rejectsWith(first, 'ENGINE_LOST', /crash/);
});

test('a request whose client has gone already never reaches the worker', async (t) => {
  const { client, worker } = started(t);
  await rejectsWith(client.translate(request([1]), AbortSignal.abort()), 'CLIENT_CLOSED');
  assert.equal(worker.sent.length, 0);
});
