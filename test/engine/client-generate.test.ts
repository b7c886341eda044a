/** Generating through the client, with a worker that says what the test says. What scoring shares with it is in client.test.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EngineClient } from '../../src/engine/client.js';
import type { GenerateListener, GenerateRequest } from '../../src/engine/engine.js';
import type { GeneratedTokens, GenerateJob, SequenceResult, TokenScores } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import { describeModel } from '../fakes.js';
import { StubWorker, stubSetup } from './stub-worker.js';

const NEVER = new AbortController().signal;

function started() {
  const worker = new StubWorker();
  const client = new EngineClient({
    setup: stubSetup([describeModel({ id: 'lm' })]),
    queueLanesMax: 3,
    queueTokensMax: 20,
    spawn: () => worker,
    now: () => 1000,
  });
  worker.ready();
  const jobs = () => worker.sent.flatMap((sent) => (sent.type === 'submit' ? [sent.job as GenerateJob] : []));
  const stops = () => worker.sent.flatMap((sent) => (sent.type === 'stop' ? [[sent.jobId, sent.index]] : []));
  return { client, worker, jobs, stops };
}

function request(lengths: readonly number[], changes: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    model: 'lm',
    prompts: lengths.map((length) => new Int32Array(length)),
    budget: { maxSteps: 8, minSteps: 1, threshold: 0.99 },
    spanCap: null,
    maxNewTokens: 4,
    temperature: 0,
    topP: 1,
    seeds: lengths.map((_, i) => i),
    topLogprobs: 2,
    promptLogprobs: false,
    stopIds: [2],
    deadlineAtMs: null,
    ...changes,
  };
}

/** Tokens with two candidates each, all numbers told from the ids. */
function tokens(...ids: readonly number[]): GeneratedTokens {
  const scores: TokenScores = {
    logprobs: Float32Array.from(ids, (id) => -id),
    topIds: Int32Array.from(ids.flatMap((id) => [id, id + 1])),
    topLogprobs: Float32Array.from(ids.flatMap((id) => [-id, -id - 1])),
    depths: Uint8Array.from(ids, (id) => id % 8),
    remainders: Float32Array.from(ids, (id) => id / 100),
    spans: new Float32Array(0),
  };
  return { ids: Int32Array.from(ids), ...scores };
}

function sequence(firstTokenAtMs: number | null, ...ids: readonly number[]): SequenceResult {
  const cost = { positions: ids.length, positionSteps: 3 * ids.length, cacheRows: 0 };
  return { prompt: null, tokens: tokens(...ids), finishReason: 'length', ...cost, firstTokenAtMs };
}

/** Says stop at the tokens named. */
function recorder(...stopAt: readonly number[]): { heard: string[]; listener: GenerateListener } {
  const heard: string[] = [];
  const listener: GenerateListener = {
    prompt: (index, { logprobs }) => heard.push(`prompt ${index} ${logprobs}`),
    token: (index, { ids, logprobs }) => {
      heard.push(`token ${index} ${ids} ${logprobs}`);
      return stopAt.includes(ids[0] as number);
    },
    sequence: (index, { tokens: { ids }, finishReason }) => heard.push(`sequence ${index} ${ids} ${finishReason}`),
  };
  return { heard, listener };
}

test('a job without a listener streams nothing and gives every sequence whole, in the order of the prompts', async () => {
  const { client, worker, jobs } = started();
  const outcome = client.generate(request([3, 0]), NEVER);
  const [job] = jobs();
  assert.ok(job !== undefined);
  assert.deepEqual([job.kind, job.streamTokens, job.id], ['generate', false, 1]);
  worker.post({ type: 'sequence', jobId: 1, index: 1, result: sequence(1030, 7) });
  worker.post({ type: 'sequence', jobId: 1, index: 0, result: sequence(1020, 5, 6) });
  worker.post({ type: 'done', jobId: 1, startedAtMs: 1010, finishedAtMs: 1050 });
  const { sequences, ...times } = await outcome;
  assert.deepEqual(sequences, [sequence(1020, 5, 6), sequence(1030, 7)]);
  assert.deepEqual(times, { queueMs: 10, computeMs: 40, firstTokenMs: 20 });
});

test('sequences that say nothing have no first token', async () => {
  const { client, worker } = started();
  const outcome = client.generate(request([3], { maxNewTokens: 0 }), NEVER);
  worker.post({ type: 'sequence', jobId: 1, index: 0, result: sequence(null) });
  worker.post({ type: 'done', jobId: 1, startedAtMs: 1010, finishedAtMs: 1050 });
  assert.equal((await outcome).firstTokenMs, null);
});

test('a listener hears the prompt, each token and the sequence', async () => {
  const { client, worker, jobs, stops } = started();
  const { heard, listener } = recorder();
  const outcome = client.generate(request([2], { promptLogprobs: true }), NEVER, listener);
  assert.equal(jobs()[0]?.streamTokens, true);
  worker.post({ type: 'prompt', jobId: 1, index: 0, scores: tokens(1, 2) });
  worker.post({ type: 'generated', jobId: 1, index: 0, token: tokens(5) });
  worker.post({ type: 'generated', jobId: 1, index: 0, token: tokens(6) });
  worker.post({ type: 'sequence', jobId: 1, index: 0, result: sequence(1020, 5, 6) });
  worker.post({ type: 'done', jobId: 1, startedAtMs: 1010, finishedAtMs: 1050 });
  await outcome;
  assert.deepEqual(heard, ['prompt 0 -1,-2', 'token 0 5 -5', 'token 0 6 -6', 'sequence 0 5,6 length']);
  assert.deepEqual(stops(), []);
});

test('a listener that stops a sequence hears no more of it and gets it cut there, whatever the engine had gone on to say', async () => {
  const { client, worker, stops } = started();
  const { heard, listener } = recorder(6);
  const outcome = client.generate(request([2, 2]), NEVER, listener);
  for (const id of [5, 6, 7]) worker.post({ type: 'generated', jobId: 1, index: 0, token: tokens(id) });
  worker.post({ type: 'generated', jobId: 1, index: 1, token: tokens(8) });
  assert.deepEqual(stops(), [[1, 0]]);
  worker.post({ type: 'sequence', jobId: 1, index: 0, result: sequence(1020, 5, 6, 7, 9) });
  worker.post({ type: 'sequence', jobId: 1, index: 1, result: sequence(1020, 8) });
  worker.post({ type: 'done', jobId: 1, startedAtMs: 1010, finishedAtMs: 1050 });
  const { sequences } = await outcome;
  assert.deepEqual(sequences[0]?.tokens, tokens(5, 6));
  assert.deepEqual(
    sequences.map(({ finishReason }) => finishReason),
    ['stop', 'length'],
  );
  assert.deepEqual(heard, [
    'token 0 5 -5',
    'token 0 6 -6',
    'token 1 8 -8',
    'sequence 0 5,6 stop',
    'sequence 1 8 length',
  ]);
});

test('a job is charged for its prompts and for all it may say', async () => {
  const { client } = started();
  client.generate(request([2], { maxNewTokens: 17 }), NEVER).catch(() => {});
  await assert.rejects(client.generate(request([0], { maxNewTokens: 2 }), NEVER), (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, 'QUEUE_FULL');
    assert.match(error.message, /19 tokens are waiting/);
    return true;
  });
});
