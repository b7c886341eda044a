import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type FakeServer, fakeServer } from '../fakes.js';

const post = ({ app }: FakeServer, url: string, payload: object) => app.inject({ method: 'POST', url, payload });
const metric = async ({ deps }: FakeServer): Promise<string> =>
  (await deps.metrics.registry.metrics()).match(/^ponder_quality_requests_total.*$/gm)?.join('\n') ?? '';

test('under pressure a request of quality adaptive gets fewer steps, and the reply and the metrics say so', async (t) => {
  const server = await fakeServer(['--latency-target-ms', '500', '--quality-steps-min', '3']);
  t.after(() => server.app.close());
  server.engine.stepsGranted = 2;
  const lowered = await post(server, '/v1/score', { input: 'abc', quality: 'adaptive', return_tokens: false });
  assert.deepEqual(lowered.json().quality, { max_steps: 3, lowered: true });
  assert.equal(server.engine.requests[0]?.budget.maxSteps, 3, 'the floor of the operator');
  const held = await post(server, '/v1/score', { input: 'abc', quality: 'adaptive', min_steps: 5 });
  assert.deepEqual(held.json().quality, { max_steps: 5, lowered: true });
  const small = await post(server, '/v1/score', { input: 'abc', quality: 'adaptive', max_steps: 1 });
  assert.deepEqual(small.json().quality, { max_steps: 1, lowered: false });
  const full = await post(server, '/v1/score', { input: 'abc' });
  assert.equal(full.json().quality, undefined, 'a request that did not agree gets all its steps');
  assert.equal(server.engine.requests[3]?.budget.maxSteps, 8);
  assert.match(await metric(server), /\{model="fake",quality="lowered"\} 2\n.*\{model="fake",quality="full"\} 1$/);
});

test('translation: both stacks, as a reply and as a stream', async (t) => {
  const server = await fakeServer(['--latency-target-ms', '500']);
  t.after(() => server.app.close());
  server.engine.stepsGranted = 4;
  const body = { input: 'Hi.', quality: 'adaptive', encoder: { min_steps: 5 } };
  const reply = await post(server, '/v1/translate', body);
  assert.deepEqual(reply.json().quality, { max_steps: 4, lowered: true });
  const [request] = server.engine.translations;
  assert.deepEqual([request?.encoderBudget.maxSteps, request?.decoderBudget.maxSteps], [5, 4]);
  const stream = await post(server, '/v1/translate', { ...body, stream: true });
  assert.match(stream.body, /"type":"result".*"quality":\{"max_steps":4,"lowered":true\}/);
});

test('without a target nothing is lowered', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  server.engine.stepsGranted = 1;
  const reply = await post(server, '/v1/score', { input: 'abc', quality: 'adaptive' });
  assert.deepEqual(reply.json().quality, { max_steps: 8, lowered: false });
  assert.equal((await post(server, '/v1/score', { input: 'abc', quality: 'low' })).statusCode, 422);
});
