/** Scoring with a model that has attention spans, over HTTP and without weights. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Value } from 'typebox/value';
import { SpanScoreReply } from '../../src/http/span-schemas.js';
import { ByteTokenizer } from '../../src/tokenize/byte-tokenizer.js';
import { describeSpanModel } from '../fake-span.js';
import { describeModel, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

const MODEL = 'span-lm-bytes';

async function post(server: FakeServer, body: object, headers: Record<string, string> = {}) {
  return server.app.inject({ method: 'POST', url: '/v1/score', headers, payload: { model: MODEL, ...body } });
}

async function score(server: FakeServer, body: object, headers: Record<string, string> = {}): Promise<SpanScoreReply> {
  const reply = await post(server, body, headers);
  assert.equal(reply.statusCode, 200, reply.body);
  const parsed = reply.json<SpanScoreReply>();
  assert.ok(Value.Check(SpanScoreReply, parsed), reply.body.slice(0, 500));
  return parsed;
}

async function refused(server: FakeServer, body: object, status: number, param: string | null, says: RegExp) {
  const reply = await post(server, body);
  assert.equal(reply.statusCode, status, reply.body);
  const { error } = reply.json<{ error: { param: string | null; message: string } }>();
  assert.equal(error.param, param);
  assert.match(error.message, says);
}

test('each byte with its place, sums over them, and keys beside those of full span', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results, usage } = await score(server, { input: 'aßb', top_logprobs: 2 });
  const [result] = results;
  assert.deepEqual(
    result?.tokens?.map(({ id, text, offset }) => [id, text, offset]),
    [
      [0x61, 'a', 0],
      [0xc3, '\ufffd', 1],
      [0x9f, '\ufffd', 1],
      [0x62, 'b', 2],
    ],
  );
  assert.deepEqual(
    result?.tokens?.[0]?.top_logprobs?.map(({ id }) => id),
    [0x61, 0x62],
  );
  const logprob = result?.tokens?.reduce((sum, token) => sum + token.logprob, 0) ?? Number.NaN;
  assert.ok(Math.abs((result?.logprob ?? 0) - logprob) < 1e-6);
  assert.equal(result?.bytes, 4);
  assert.equal(result?.span.mean, (5 + 16 + 10 + 61) / 4);
  // One block of 16 of which 4 are tokens: two heads share 16 keys, one has 16, one 64; each query meets the 16 of its block too.
  const computed = 16 * (2 * (16 + 16) + (16 + 16) + (64 + 16));
  assert.deepEqual(usage, { tokens: 4, keys: 4 * 92, keys_computed: computed, keys_full: 4 * 4 * 64 });
});

test('a text longer than --text-bytes-max and --queue-tokens-max: any length up to the body', async (t) => {
  const limits = ['--text-bytes-max', '2000', '--queue-tokens-max', '2000', '--body-bytes-max', '20000'];
  const server = await fakeServer(limits);
  t.after(() => server.app.close());
  const input = 'word '.repeat(3900);
  const { usage } = await score(server, { input, return_tokens: false });
  assert.equal(usage.tokens, 19_500);
  const listed = (await score(server, { input: Array.from({ length: 5000 }, () => 7) })).results[0];
  assert.equal(listed?.tokens?.length, 5000);
  const unnamed = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input } });
  assert.equal(unnamed.statusCode, 413, 'a model that cuts windows keeps its limit');
  assert.equal((await post(server, { input: input.repeat(2) })).statusCode, 413);
});

test('span_max caps what a head looks at; span_cost says what that cost', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const capped = await score(server, { input: 'x'.repeat(32), span_max: 8, span_cost: true, return_tokens: false });
  assert.equal(capped.results[0]?.span.mean, (5 + 12 + 10 + 12) / 4);
  // The fake engine takes half a nat from each token under a cap.
  assert.equal(capped.results[0]?.span.cost?.logprob, 16);
  assert.ok(Math.abs((capped.results[0]?.span.cost?.bits_per_byte ?? 0) - 0.5 / Math.LN2) < 1e-9);
  assert.deepEqual(
    server.engine.streams.map(({ spanCap }) => spanCap),
    [8, null],
  );
  assert.equal(capped.usage.keys, 32 * 39 + 32 * 92, 'both scorings count');
});

test('a text with a byte outside the vocabulary is refused, naming the text', async (t) => {
  const tokenizers = new Map([[MODEL, new ByteTokenizer(Uint8Array.from([97, 98]))]]);
  const engine = new FakeEngine([describeSpanModel({ vocabularySize: 2 })]);
  const server = await fakeServer([], { engine, tokenizers });
  t.after(() => server.app.close());
  await score(server, { input: 'abba' });
  await refused(
    server,
    { input: ['ab', 'abc'] },
    422,
    'input[1]',
    /outside the model's vocabulary \(0x63 at offset 2\)/,
  );
});

test('without a name the model with spans is meant only where no other scores', async (t) => {
  const server = await fakeServer([], { engine: new FakeEngine([describeSpanModel()]) });
  t.after(() => server.app.close());
  const alone = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'a' } });
  assert.equal(alone.json().model, MODEL);
  const both = await fakeServer([], { engine: new FakeEngine([describeModel(), describeSpanModel()]) });
  t.after(() => both.app.close());
  const usual = await both.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'a' } });
  assert.equal(usual.json().model, 'fake');
});

test('a session goes on where it stopped, until it is ended', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const whole = (await score(server, { input: 'abcdef' })).results[0]?.tokens?.map(({ logprob }) => logprob);
  const first = await score(server, { input: 'abc', session: 's', session_begin: true });
  assert.deepEqual(first.session, { key: 's', tokens: 3, open: true });
  const second = await score(server, { input: 'def', session: 's' });
  assert.deepEqual(second.session, { key: 's', tokens: 6, open: true });
  // A unit of 64 of the stream, in which the three before are computed again: four heads as above.
  const unit = 64 * (2 * (16 + 64) + (16 + 64) + (64 + 64));
  assert.deepEqual([first.usage.keys_computed, second.usage.keys_computed], [unit, unit]);
  const parts = [first, second].flatMap(({ results }) => results[0]?.tokens?.map(({ logprob }) => logprob));
  assert.deepEqual(parts, whole);

  assert.deepEqual((await score(server, { input: [1, 2], session: 's', session_end: true })).session, {
    key: 's',
    tokens: 8,
    open: false,
  });
  await refused(server, { input: 'x', session: 's' }, 404, 'session', /begin/);
});

test('DELETE ends a session; one that is unknown is told apart from a model without sessions', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  await score(server, { input: 'abc', session: 's', session_begin: true });
  await refused(server, { input: 'abc', session: 's', session_begin: true }, 409, 'session', /open/);
  const end = (url: string) => server.app.inject({ method: 'DELETE', url });
  const ended = await end('/v1/sessions/s');
  assert.deepEqual(ended.json(), { model: MODEL, key: 's', ended: true });
  assert.equal((await end('/v1/sessions/s')).json().error.code, 'SESSION_UNKNOWN');
  assert.equal((await end(`/v1/sessions/s?model=${MODEL}`)).statusCode, 404);
  assert.equal((await end('/v1/sessions/s?model=fake')).statusCode, 422);
  assert.equal((await end('/v1/sessions/s%20s')).statusCode, 422);
});

test('clients with different keys have sessions of their own, though they choose the same name', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const [ann, bob] = [{ authorization: 'Bearer ann' }, { authorization: 'Bearer bob' }];
  await score(server, { input: 'abc', session: 's', session_begin: true }, ann);
  await score(server, { input: 'xy', session: 's', session_begin: true }, bob);
  assert.equal((await score(server, { input: 'd', session: 's' }, ann)).session?.tokens, 4);
  const stranger = await server.app.inject({ method: 'DELETE', url: '/v1/sessions/s' });
  assert.equal(stranger.statusCode, 404);
});

test('what does not fit is refused with the remedy', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const input = 'a';
  for (const field of ['max_steps', 'min_steps', 'threshold']) {
    await refused(server, { input, [field]: 1 }, 422, field, /adaptive depth.*cap its spans with span_max/);
  }
  await refused(server, { input, stride: 4 }, 422, 'stride', /windows.*leave it out/);
  await refused(server, { input, span_max: 65 }, 422, 'span_max', /from 0 to 64/);
  await refused(server, { input, span_max: -1 }, 422, 'span_max', /from 0 to 64, not -1/);
  await refused(server, { input, span_cost: true }, 422, 'span_cost', /set that too/);
  await refused(server, { input: [256] }, 422, 'input', /token id 256.*0 to 255/);
  await refused(server, { input, session: 'a b' }, 422, 'session', /letters, digits/);
  await refused(server, { input, session: '' }, 422, 'session', /1 to 128/);
  await refused(server, { input, session_begin: true }, 422, 'session_begin', /needs session/);
  await refused(server, { input, session_end: true }, 422, 'session_end', /needs session/);
  await refused(server, { input: ['a', 'b'], session: 's' }, 422, 'input', /one stream/);
  await refused(server, { input, session: 's', span_max: 4, span_cost: true }, 422, 'span_cost', /leave it out/);
  for (const [field, value] of Object.entries({ span_max: 4, stream: true, session: 's', session_end: false })) {
    await refused(server, { model: 'fake', input, [field]: value }, 422, field, /attention spans.*leave it out/);
  }
  assert.equal(server.engine.streams.length, 0, 'nothing of this reached the engine');
  assert.equal(server.admission.requestsInWork, 0);
});

test('the model tells its spans, its pools and what a text holds', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const detail = (await server.app.inject(`/v1/models/${MODEL}`)).json();
  assert.deepEqual(detail.span.keys, [
    [5, 16],
    [10, 61],
  ]);
  assert.deepEqual(detail.span.pools[1], [
    { heads: [0], keys: 16 },
    { heads: [1], keys: 64 },
  ]);
  // Two heads in a ring of 16 + 128, one in another, one of 64 + 128; 8 wide, keys and values, 4 bytes.
  assert.equal(detail.span.cache_bytes, (3 * 144 + 192) * 8 * 2 * 4);
  assert.deepEqual([detail.limits.text_bytes, detail.limits.span_max, detail.limits.sessions], [4_194_304, 64, 16]);
});
