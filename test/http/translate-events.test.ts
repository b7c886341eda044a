import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import { TranslateEvents } from '../../src/http/translate-events.js';
import type { TranslateReply } from '../../src/http/translate-schemas.js';
import type { TranslatedSentence } from '../../src/translate/types.js';
import { type FakeServer, fakeServer } from '../fakes.js';

interface Sent {
  readonly type: string;
  readonly index: number;
  readonly text: string;
  readonly text_so_far: string;
  readonly results: readonly { readonly index: number; readonly alternatives?: readonly { readonly text: string }[] }[];
  readonly error?: { readonly code: string };
  readonly [field: string]: unknown;
}

/** The events of a stream; every one is a single `data:` line. */
function eventsOf(body: string): { readonly events: Sent[]; readonly done: boolean } {
  const blocks = body.split('\n\n').filter((block) => block !== '');
  for (const block of blocks) assert.match(block, /^data: [^\n]+$/);
  const done = blocks.at(-1) === 'data: [DONE]';
  return {
    events: blocks.filter((block) => block !== 'data: [DONE]').map((block) => JSON.parse(block.slice(6))),
    done,
  };
}

async function stream(server: FakeServer, body: object): Promise<ReturnType<typeof eventsOf>> {
  const payload = { stream: true, ...body };
  const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', payload });
  assert.equal(reply.statusCode, 200, reply.body);
  assert.equal(reply.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(reply.headers['cache-control'], 'no-cache');
  return eventsOf(reply.body);
}

test('sentences come in order and add up to the text; then the sums, then [DONE]', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const input = ['One is here. Two is there!\n\nThree.', '', 'Four.'];
  const whole = (
    await server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input } })
  ).json<TranslateReply>();
  const { events, done } = await stream(server, { input });
  assert.ok(done);
  for (const { index, text } of whole.results) {
    const pieces = events.filter((event) => event.type === 'sentence' && event.index === index);
    assert.equal(pieces.map((event) => event.text).join(''), text);
  }
  const order = events.filter(({ type }) => type === 'sentence').map(({ index }) => index);
  assert.deepEqual(order, order.toSorted());
  const last = events.at(-1);
  assert.equal(last?.type, 'result');
  assert.deepEqual(last?.usage, whole.usage);
  assert.deepEqual(
    last?.results,
    whole.results.map(({ text: _text, tokens: _tokens, source_tokens: _source, ...rest }) => rest),
  );
});

test('greedy: the tokens of the sentence in work, with its text so far; beams: sentences only', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const greedy = (await stream(server, { input: 'Abc.' })).events;
  const tokens = greedy.filter(({ type }) => type === 'token');
  assert.ok(tokens.length > 0);
  assert.equal(tokens.at(-1)?.text_so_far, 'aBC.');
  assert.deepEqual(Object.keys(tokens[0]?.token as object), ['id', 'text', 'logprob', 'depth']);
  const beam = (await stream(server, { input: 'Abc.', alternatives: 1 })).events;
  assert.equal(beam.filter(({ type }) => type === 'token').length, 0);
  assert.deepEqual(
    beam.at(-1)?.results[0]?.alternatives?.map(({ text }) => text),
    ['aBC.!'],
  );
});

test('return_tokens: with each sentence, or not at all', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const sentenceOf = async (body: object): Promise<Sent | undefined> =>
    (await stream(server, { input: 'Abc.', ...body })).events.find(({ type }) => type === 'sentence');
  assert.ok(Array.isArray((await sentenceOf({}))?.tokens));
  assert.equal((await sentenceOf({ return_tokens: false }))?.tokens, undefined);
});

test('what fails before the first event has its status; what fails after it is the last event, without [DONE]', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  server.engine.failWith(new ServerError('ENGINE_LOST', 'the engine worker died'));
  const payload = { input: 'One. Two.', stream: true };
  const early = await server.app.inject({ method: 'POST', url: '/v1/translate', payload });
  assert.equal(early.statusCode, 503);
  assert.equal(early.json().error.code, 'ENGINE_LOST');

  server.engine.sentencesFree = 1;
  const { events, done } = await stream(server, { input: ['One.', 'Two.'] });
  assert.equal(done, false);
  assert.equal(events[0]?.index, 0);
  assert.equal(events.at(-1)?.type, 'error');
  assert.equal(events.at(-1)?.error?.code, 'ENGINE_LOST');
  const metrics = await server.deps.metrics.registry.metrics();
  assert.match(metrics, /route="\/v1\/translate",outcome="ENGINE_LOST"\} 2/);
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
  const json = JSON.stringify({ stream: true, ...body });
  const socket = connect(port, '127.0.0.1').on('error', () => {});
  socket.write(
    `POST /v1/translate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(json)}\r\n\r\n${json}`,
  );
  return socket;
}

test('the first sentence is sent while the second is still in work; a hang-up then takes it out of the engine', async (t) => {
  const server = await listening(t);
  server.engine.sentencesFree = 1;
  server.engine.shutGate();
  const socket = post(server.port, { input: ['One.', 'Two.'] });
  let received = '';
  for await (const chunk of socket.setEncoding('utf8')) {
    received += chunk;
    if (received.includes('"type":"sentence"')) break;
  }
  assert.match(received, /"text":"oNE\."/);
  const idle = server.admission.whenIdle();
  socket.destroy();
  await idle;
  await new Promise(setImmediate);
  assert.equal(server.engine.active, 0, 'left the engine');
  assert.match(await server.deps.metrics.registry.metrics(), /route="\/v1\/translate",outcome="CLIENT_CLOSED"\} 1/);
});

test('a reader that stops is cut off; one that waits for a slow sentence is not', async (t) => {
  const server = await listening(t, ['--reply-stall-ms-max', '100']);
  const stalled = post(server.port, { input: new Array(1000).fill(`${'Word '.repeat(15)}.`) });
  await once(stalled, 'data');
  stalled.pause();
  await server.admission.whenIdle();
  assert.match(await server.deps.metrics.registry.metrics(), /outcome="CLIENT_CLOSED"\} 1/);

  server.engine.sentencesFree = 1;
  server.engine.shutGate();
  const patient = post(server.port, { input: ['One.', 'Two.'] });
  await once(patient, 'data');
  // The stall limit passes with nothing left to read.
  await once(server.app.server, 'timeout');
  server.engine.openGate();
  let rest = '';
  for await (const chunk of patient.setEncoding('utf8')) {
    rest += chunk;
    if (rest.includes('[DONE]')) break;
  }
  assert.match(rest, /"text":"tWO\."/);
  patient.destroy();
});

const sentence = (source: string): TranslatedSentence =>
  ({ source, text: source, tokens: [], sourceTokens: [], finishReason: 'stop' }) as unknown as TranslatedSentence;
const token = { id: 1, text: 'x'.repeat(1000), logprob: -1, depth: 2 };

test('a reader that does not read: tokens are left out past a limit, sentences are not', async () => {
  const events = new TranslateEvents(true);
  for (let i = 0; i < 10_000; i++) events.token(0, token, 'x'.repeat(1000));
  assert.ok(events.waiting <= 64, `${events.waiting} wait`);
  assert.ok(events.stream.readableLength < 100_000, `${events.stream.readableLength} bytes are buffered`);
  for (let i = 0; i < 500; i++) events.piece(0, `s${i}`, sentence(`s${i}`));
  events.finish({ model: 'm', results: [], usage: {}, timing: {} } as unknown as TranslateReply);
  const { events: sent, done } = eventsOf(await text(events.stream));
  assert.ok(done);
  assert.ok(sent.filter(({ type }) => type === 'token').length < 200);
  assert.deepEqual(
    sent.filter(({ type }) => type === 'sentence').map((event) => event.text),
    Array.from({ length: 500 }, (_, i) => `s${i}`),
  );
});

test('after the end, and after the reader has gone, events go nowhere', async () => {
  const failed = new TranslateEvents(false);
  failed.fail(new ServerError('DEADLINE_EXCEEDED', 'too late'));
  failed.piece(0, 'late', null);
  const { events, done } = eventsOf(await text(failed.stream));
  assert.deepEqual(
    events.map(({ type }) => type),
    ['error'],
  );
  assert.equal(done, false);
  const gone = new TranslateEvents(false);
  gone.stream.destroy();
  gone.piece(0, 'late', null);
  assert.equal(gone.waiting, 0);
});
