import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Value } from 'typebox/value';
import { type ScoreBody, ScoreReply } from '../../src/http/schemas.js';
import { depthOf, describeModel, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

async function score(server: FakeServer, body: ScoreBody): Promise<ScoreReply> {
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: body });
  assert.equal(reply.statusCode, 200, reply.body);
  const parsed = reply.json<ScoreReply>();
  assert.ok(Value.Check(ScoreReply, parsed), JSON.stringify(Value.Errors(ScoreReply, parsed)));
  return parsed;
}

test('a text: each token with its offset, and the sums over them', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { model, results, usage } = await score(server, { input: 'Né' });
  const [result] = results;
  const tokens = result?.tokens ?? [];
  assert.equal(model, 'fake');
  assert.deepEqual(
    tokens.map(({ id, text, offset, depth }) => ({ id, text, offset, depth })),
    [
      { id: 0x4e, text: 'N', offset: 0, depth: depthOf(0x4e, 1, 8) },
      { id: 0xc3, text: '\uFFFD', offset: 1, depth: depthOf(0xc3, 1, 8) },
      { id: 0xa9, text: '\uFFFD', offset: 1, depth: depthOf(0xa9, 1, 8) },
    ],
  );
  const sum = tokens.reduce((total, { logprob }) => total + logprob, 0);
  assert.equal(result?.logprob, sum);
  assert.equal(result?.bytes, 3);
  assert.equal(result?.bits_per_byte, -sum / (3 * Math.LN2));
  assert.equal(result?.perplexity, Math.exp(-sum / 3));
  const depths = tokens.map(({ depth }) => depth);
  assert.equal(result?.ponder.max, Math.max(...depths));
  assert.equal(result?.ponder.mean, depths.reduce((a, b) => a + b) / 3);
  assert.equal(result?.ponder.cost, tokens.reduce((total, { depth, remainder }) => total + depth + remainder, 0) / 3);
  assert.equal(result?.ponder.histogram.length, 9);
  for (const [steps, count] of (result?.ponder.histogram ?? []).entries()) {
    assert.equal(count, depths.filter((depth) => depth === steps).length);
  }
  assert.deepEqual(usage, { tokens: 3, position_steps: depths.reduce((a, b) => a + b), position_steps_fixed: 24 });
});

test('the four shapes of input are answered in order', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const ids = [...Buffer.from('one')];
  const whole = await score(server, { input: 'one' });
  assert.deepEqual((await score(server, { input: ids })).results, whole.results);
  const list = await score(server, { input: ['one', 'two', 'one'] });
  assert.deepEqual(
    list.results.map(({ index }) => index),
    [0, 1, 2],
  );
  assert.deepEqual({ ...list.results[2], index: 0 }, whole.results[0]);
  const lists = await score(server, { input: [[...Buffer.from('two')], ids] });
  assert.deepEqual({ ...lists.results[1], index: 0 }, whole.results[0]);
});

test('a long text is cut into windows, each token scored once with its own offset', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const text = 'The quick brown fox jumps over the lazy dog, and on.';
  const { results, usage } = await score(server, { input: text, stride: 5 });
  const request = server.engine.requests.at(-1);
  assert.equal(results[0]?.windows, request?.windows.length);
  assert.deepEqual(
    request?.windows.slice(0, 2).map(({ scoreFrom, ids }) => [scoreFrom, ids.length]),
    [
      [0, 16],
      [11, 16],
    ],
  );
  assert.deepEqual(
    results[0]?.tokens?.map(({ offset }) => offset),
    [...text].map((_, i) => i),
  );
  assert.equal(results[0]?.tokens?.map(({ text: piece }) => piece).join(''), text);
  const positions = request?.windows.reduce((sum, { ids }) => sum + ids.length, 0) ?? 0;
  assert.equal(usage.tokens, text.length);
  assert.equal(usage.position_steps_fixed, positions * 8);
  assert.ok(usage.position_steps > 0);
});

test('windows are copies, so that a message to the engine carries no more than its tokens', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  await score(server, { input: 'x'.repeat(100) });
  for (const { ids } of server.engine.requests[0]?.windows ?? []) assert.equal(ids.buffer.byteLength, ids.byteLength);
});

test('the budget reaches the engine; what is left out is the default of the model', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const full = { max_steps: 4, min_steps: 2, threshold: 0.5, top_logprobs: 3, deadline_ms: 60_000 };
  const { results } = await score(server, { input: 'hello', ...full });
  await score(server, { input: 'hello' });
  const [first, second] = server.engine.requests;
  assert.deepEqual(first?.budget, { maxSteps: 4, minSteps: 2, threshold: 0.5 });
  assert.equal(first?.topLogprobs, 3);
  assert.ok((first?.deadlineAtMs ?? 0) > 0);
  assert.deepEqual(second?.budget, { maxSteps: 8, minSteps: 1, threshold: 0.99 });
  assert.equal(second?.deadlineAtMs, null);
  const top = results[0]?.tokens?.[0]?.top_logprobs;
  assert.deepEqual(top, [
    { id: 104, text: 'h', logprob: -1 },
    { id: 105, text: 'i', logprob: -2 },
    { id: 106, text: 'j', logprob: -3 },
  ]);
});

test('return_tokens false keeps the sums', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results } = await score(server, { input: 'hello', return_tokens: false });
  assert.ok(results[0] !== undefined && !('tokens' in results[0]));
});

test('a NUL, a byte order mark and control characters are text like any other', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const text = 'a\u0000b\uFEFF\u001f\u2028';
  const { results } = await score(server, { input: text });
  assert.deepEqual(
    results[0]?.tokens?.map(({ id }) => id),
    [...Buffer.from(text)],
  );
  assert.equal(results[0]?.bytes, Buffer.byteLength(text));
});

test('a large reply is streamed, and is the same JSON', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const text = 'abcdefghij'.repeat(1000);
  const reply = await server.app.inject({
    method: 'POST',
    url: '/v1/score',
    payload: { input: text, top_logprobs: 1 },
  });
  assert.equal(reply.headers['content-length'], undefined, 'streamed');
  const parsed = reply.json<ScoreReply>();
  assert.ok(Value.Check(ScoreReply, parsed));
  assert.equal(parsed.results[0]?.tokens?.map((token) => token.text).join(''), text);
});

test('timing is in the body and in the headers', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'x' } });
  const { timing } = reply.json<ScoreReply>();
  assert.equal(timing.queue_ms, 0.25);
  assert.equal(timing.compute_ms, 1.5);
  assert.ok(timing.total_ms >= timing.tokenize_ms && timing.tokenize_ms >= 0);
  assert.equal(
    reply.headers['server-timing'],
    `queue;dur=0.25, tokenize;dur=${timing.tokenize_ms}, compute;dur=1.5, total;dur=${timing.total_ms}`,
  );
  assert.equal(reply.headers['x-inference-time'], '2');
  assert.equal(reply.headers['x-queue-time'], '0');
  assert.match(String(reply.headers['x-tokenization-time']), /^\d+$/);
});

test('a sane request id comes back; any other is replaced', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const idOf = async (id: string): Promise<unknown> =>
    (await server.app.inject({ url: '/health/live', headers: { 'x-request-id': id } })).headers['x-request-id'];
  assert.equal(await idOf('trace-1.a:b_c'), 'trace-1.a:b_c');
  for (const id of ['', 'a b', 'x'.repeat(129), '{"level":60}'])
    assert.match(String(await idOf(id)), /^[0-9a-f-]{36}$/);
});

test('with several models the name is needed', async (t) => {
  const engine = new FakeEngine([describeModel({ id: 'a' }), describeModel({ id: 'b', maxSteps: 3 })]);
  const refused = () => [{ id: 'c', reason: 'step.onnx: wrong hash' }];
  const server = await fakeServer([], { engine, refused });
  t.after(() => server.app.close());
  assert.equal((await score(server, { input: 'x', model: 'b' })).model, 'b');
  const post = async (body: object) =>
    (await server.app.inject({ method: 'POST', url: '/v1/score', payload: body })).json();
  assert.deepEqual(await post({ input: 'x' }), {
    error: {
      code: 'INVALID_REQUEST',
      message: 'model is required: one of a, b',
      type: 'invalid_request_error',
      param: 'model',
    },
  });
  assert.match((await post({ input: 'x', model: 'd' })).error.message, /^model 'd' is not served: use one of a, b$/);
  assert.match((await post({ input: 'x', model: 'c' })).error.message, /was refused \(step.onnx: wrong hash\)/);
});
