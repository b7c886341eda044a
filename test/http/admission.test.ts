import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import { type FakeServer, fakeServer } from '../fakes.js';

const post = ({ app }: FakeServer, input = 'a', extra: object = {}) =>
  app.inject({ method: 'POST', url: '/v1/score', payload: { input, ...extra } });

test('past requestsMax: 429 with Retry-After, and the permit comes back', async (t) => {
  const server = await fakeServer(['--requests-max', '2']);
  t.after(() => server.app.close());
  server.engine.shutGate();
  const inWork = [post(server), post(server)];
  await server.engine.arrived(2);
  assert.equal(server.admission.requestsInWork, 2);
  const refused = await post(server);
  assert.equal(refused.statusCode, 429);
  assert.equal(refused.headers['retry-after'], '1');
  assert.equal(refused.json().error.code, 'QUEUE_FULL');
  assert.equal(server.engine.requests.length, 2, 'refused before the engine');
  server.engine.openGate();
  for (const reply of await Promise.all(inWork)) assert.equal(reply.statusCode, 200);
  assert.equal(server.admission.requestsInWork, 0);
  assert.equal((await post(server)).statusCode, 200);
});

test('permits come back whatever ends the request', async (t) => {
  const server = await fakeServer(['--requests-max', '1']);
  t.after(() => server.app.close());
  const codes = ['DEADLINE_EXCEEDED', 'ENGINE_LOST', 'QUEUE_FULL', 'NOT_READY', 'CLIENT_CLOSED'] as const;
  for (const code of codes) {
    server.engine.failWith(new ServerError(code, 'as the engine says'));
    const reply = await post(server);
    assert.equal(reply.json().error.code, code);
    assert.equal(reply.headers['retry-after'] !== undefined, [429, 503].includes(reply.statusCode), code);
  }
  server.engine.failWith(null);
  assert.equal((await post(server)).statusCode, 200);
});

test('bodies in work have a limit in bytes, counted before they are read', async (t) => {
  const argv = ['--body-bytes-max', '2000', '--text-bytes-max', '2000', '--bodies-bytes-max', '2500'];
  const server = await fakeServer(argv);
  t.after(() => server.app.close());
  server.engine.shutGate();
  const first = post(server, 'x'.repeat(1500));
  await server.engine.arrived(1);
  const refused = await post(server, 'x'.repeat(1500));
  assert.equal(refused.statusCode, 429);
  assert.match(refused.json().error.message, /--bodies-bytes-max/);
  const small = post(server, 'x');
  await server.engine.arrived(2);
  server.engine.openGate();
  assert.equal((await first).statusCode, 200);
  assert.equal((await small).statusCode, 200);
  assert.equal((await post(server, 'x'.repeat(1500))).statusCode, 200);
});

for (const [state, code] of [
  ['starting', 'NOT_READY'],
  ['restarting', 'NOT_READY'],
  ['draining', 'DRAINING'],
  ['stopped', 'DRAINING'],
] as const) {
  test(`an engine that is ${state}: 503 ${code} at the door and in readiness, while liveness holds`, async (t) => {
    const server = await fakeServer();
    t.after(() => server.app.close());
    server.engine.state = state;
    server.engine.reason = 'loading fake';
    for (const reply of [await post(server), await server.app.inject('/health/ready')]) {
      assert.equal(reply.statusCode, 503);
      assert.equal(reply.json().error.code, code);
      assert.ok(Number(reply.headers['retry-after']) >= 1);
      if (code === 'NOT_READY') assert.match(reply.json().error.message, new RegExp(`${state} \\(loading fake\\)`));
    }
    assert.equal((await server.app.inject('/health/live')).statusCode, 200);
    assert.equal(server.engine.requests.length, 0);
  });
}

test('draining: what is in is finished, what is new gets 503 and is told to close', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  server.engine.shutGate();
  const inWork = post(server);
  await server.engine.arrived(1);
  server.admission.drain();
  let idle = false;
  const whenIdle = server.admission.whenIdle().then(() => {
    idle = true;
  });
  const refused = await post(server);
  assert.equal(refused.statusCode, 503);
  assert.equal(refused.headers.connection, 'close');
  assert.equal(idle, false);
  server.engine.openGate();
  assert.equal((await inWork).statusCode, 200);
  await whenIdle;
});

test('a deadline that passed while tokenising: 504, and nothing reaches the engine', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const tokenizer = server.deps.tokenizers.get('fake');
  assert.ok(tokenizer);
  const encode = tokenizer.encode.bind(tokenizer);
  tokenizer.encode = async (text) => {
    const until = performance.now() + 3;
    while (performance.now() < until);
    return encode(text);
  };
  const reply = await post(server, 'a', { deadline_ms: 1 });
  assert.equal(reply.statusCode, 504, reply.body);
  assert.match(reply.json().error.message, /raise deadline_ms/);
  assert.equal(server.engine.requests.length, 0);
});

test('a default deadline applies to requests that name none', async (t) => {
  const server = await fakeServer(['--deadline-ms-default', '5000']);
  t.after(() => server.app.close());
  await post(server);
  await post(server, 'a', { deadline_ms: 100_000 });
  const [first, second] = server.engine.requests.map(({ deadlineAtMs }) => deadlineAtMs ?? Number.NaN);
  assert.ok((second ?? 0) - (first ?? 0) > 90_000);
});

for (const [path, body, kind, model] of [
  ['/v1/score', { input: 'abcdef', deadline_ms: 5000 }, 'score', 'fake'],
  ['/v1/translate', { input: ['abc', 'def'], deadline_ms: 5000 }, 'translate', 'fake-mt'],
] as const) {
  test(`${path}: what would be late is refused before it is tokenised, with the time after which to retry`, async (t) => {
    const server = await fakeServer();
    t.after(() => server.app.close());
    server.engine.late = new ServerError('QUEUE_FULL', 'it would take too long', null, 7);
    const refused = await server.app.inject({ method: 'POST', url: path, payload: body });
    assert.equal(refused.statusCode, 429);
    assert.equal(refused.headers['retry-after'], '7');
    assert.equal(server.engine.requests.length + server.engine.translations.length, 0);
    const [foreseen] = server.engine.foreseen;
    assert.ok(foreseen !== undefined && 'bytes' in foreseen);
    assert.deepEqual([foreseen.kind, foreseen.model, foreseen.bytes, foreseen.tenant], [kind, model, 6, '']);
    assert.ok((foreseen?.deadlineAtMs ?? 0) > 0);
    assert.equal(server.admission.requestsInWork, 0, 'the permit came back');
    server.engine.late = null;
    assert.equal((await server.app.inject({ method: 'POST', url: path, payload: body })).statusCode, 200);
  });
}
