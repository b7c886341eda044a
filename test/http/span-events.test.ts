import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import type { SpanBlockResult } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import { SpanEvents } from '../../src/http/span-events.js';
import { ByteTokenizer } from '../../src/tokenize/byte-tokenizer.js';
import { type FakeServer, fakeServer } from '../fakes.js';

const MODEL = 'span-lm-bytes';

interface Sent {
  readonly type: string;
  readonly index: number;
  readonly start: number;
  readonly count: number;
  readonly logprob: number;
  readonly tokens?: readonly { readonly logprob: number; readonly text: string }[];
  readonly results: readonly { readonly logprob: number }[];
  readonly error?: { readonly code: string };
}

function eventsOf(body: string): { readonly events: Sent[]; readonly done: boolean } {
  const blocks = body.split('\n\n').filter((block) => block !== '');
  for (const block of blocks) assert.match(block, /^data: [^\n]+$/);
  const events = blocks.filter((block) => block !== 'data: [DONE]').map((block) => JSON.parse(block.slice(6)));
  return { events, done: blocks.at(-1) === 'data: [DONE]' };
}

const payload = (body: object) => ({ model: MODEL, stream: true, ...body });

test('blocks in order of each text, their tokens those of the whole; then the sums, then [DONE]', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const inject = (body: object) => server.app.inject({ method: 'POST', url: '/v1/score', payload: body });
  const input = ['A text of more than two blocks of 16.', 'Short.'];
  const whole = (await inject({ model: MODEL, input, top_logprobs: 1 })).json();
  const reply = await inject(payload({ input, top_logprobs: 1 }));
  assert.equal(reply.headers['content-type'], 'text/event-stream; charset=utf-8');
  const { events, done } = eventsOf(reply.body);
  assert.ok(done);
  for (const [index, result] of whole.results.entries()) {
    const blocks = events.filter((event) => event.type === 'block' && event.index === index);
    assert.deepEqual(
      blocks.flatMap(({ tokens }) => tokens),
      result.tokens,
    );
    assert.deepEqual(
      blocks.map(({ start }) => start),
      blocks.map((_, i) => i * 16),
    );
    const logprob = blocks.reduce((sum, block) => sum + block.logprob, 0);
    assert.ok(Math.abs(logprob - result.logprob) < 1e-5);
  }
  const last = events.at(-1);
  assert.equal(last?.type, 'result');
  assert.deepEqual(
    last?.results,
    whole.results.map(({ tokens: _, ...rest }: { tokens: unknown }) => rest),
  );
  const bare = eventsOf((await inject(payload({ input: 'abc', return_tokens: false }))).body).events;
  assert.deepEqual(bare[0], { type: 'block', index: 0, start: 0, count: 3, logprob: bare[0]?.logprob });
});

test('what fails before the first block has its status; what fails later is the last event, without [DONE]', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  server.engine.failWith(new ServerError('SESSION_UNKNOWN', 'begin it', 'session'));
  const early = await server.app.inject({ method: 'POST', url: '/v1/score', payload: payload({ input: 'a' }) });
  assert.equal(early.statusCode, 404);
  assert.equal(early.json().error.param, 'session');
  server.engine.sentencesFree = 1;
  const late = await server.app.inject({
    method: 'POST',
    url: '/v1/score',
    payload: payload({ input: 'x'.repeat(20) }),
  });
  const { events, done } = eventsOf(late.body);
  assert.deepEqual(
    events.map(({ type }) => type),
    ['block', 'error'],
  );
  assert.equal(done, false);
  assert.equal(server.admission.requestsInWork, 0);
});

async function listening(t: TestContext, argv: readonly string[] = []): Promise<FakeServer & { port: number }> {
  const server = await fakeServer(argv);
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    server.app.server.closeAllConnections();
    await server.app.close();
  });
  return { ...server, port: (server.app.server.address() as AddressInfo).port };
}

function post(port: number, body: object) {
  const json = JSON.stringify(payload(body));
  const socket = connect(port, '127.0.0.1').on('error', () => {});
  socket.write(
    `POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(json)}\r\n\r\n${json}`,
  );
  return socket;
}

test('a block is sent while the next one is in work; a hang-up then takes the text out of the engine', async (t) => {
  const server = await listening(t);
  server.engine.sentencesFree = 1;
  server.engine.shutGate();
  const socket = post(server.port, { input: 'x'.repeat(40) });
  let received = '';
  for await (const chunk of socket.setEncoding('utf8')) {
    received += chunk;
    if (received.includes('"type":"block"')) break;
  }
  const idle = server.admission.whenIdle();
  socket.destroy();
  await idle;
  await new Promise(setImmediate);
  assert.equal(server.engine.active, 0, 'left the engine');
  assert.match(await server.deps.metrics.registry.metrics(), /route="\/v1\/score",outcome="CLIENT_CLOSED"\} 1/);
});

test('a reader that stops holds the engine back, and is cut off', async (t) => {
  const server = await listening(t, ['--reply-stall-ms-max', '100']);
  // Some 100 MB of events, which no socket's buffer holds.
  const stalled = post(server.port, { input: 'word '.repeat(200_000) });
  await once(stalled, 'data');
  stalled.pause();
  await server.admission.whenIdle();
  assert.match(await server.deps.metrics.registry.metrics(), /outcome="CLIENT_CLOSED"\} 1/);
});

const encoded = { ids: new Int32Array(16).fill(65), offsets: new Int32Array(17), bytes: 16 };
const block: SpanBlockResult = {
  logprobs: new Float32Array(16).fill(-1),
  topIds: new Int32Array(0),
  topLogprobs: new Float32Array(0),
  spans: new Float32Array(16).fill(40.5),
};

test('a block is taken when the reader reads it, and when the reader has gone', async () => {
  const events = new SpanEvents(new ByteTokenizer(), 0, true);
  const taken = Array.from({ length: 200 }, () => events.block(0, 0, encoded, block));
  assert.ok(events.waiting > 150, `${events.waiting} wait`);
  const first = await Promise.race([taken[0], taken.at(-1)?.then(() => 'last')]);
  assert.notEqual(first, 'last');
  events.stream.destroy();
  await Promise.all(taken);
  assert.equal(events.waiting, 0);
  await events.block(0, 0, encoded, block);
});

test('tokens of a model with dynamic spans carry theirs', async () => {
  const events = new SpanEvents(new ByteTokenizer(), 0, true);
  void events.block(0, 0, encoded, block);
  events.fail(new ServerError('DEADLINE_EXCEEDED', 'too late'));
  const [first] = eventsOf(await text(events.stream)).events;
  assert.deepEqual(first?.tokens?.[0], { id: 65, text: 'A', offset: 0, logprob: -1, span: 40.5 });
});
