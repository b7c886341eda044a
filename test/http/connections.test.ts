/** What only a real socket shows: hang-ups, slow clients, broken HTTP. Limits are set low; nothing waits longer than them. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { type FakeServer, fakeServer } from '../fakes.js';

async function listening(t: TestContext, argv: readonly string[] = []): Promise<FakeServer & { port: number }> {
  const server = await fakeServer(argv);
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    server.app.server.closeAllConnections();
    await server.app.close();
  });
  return { ...server, port: (server.app.server.address() as AddressInfo).port };
}

function open(port: number): Socket {
  // The tests look at what arrived; a reset after that is part of what some of them provoke.
  return connect(port, '127.0.0.1').on('error', () => {});
}

/** Everything the server sends until it closes the connection. */
async function untilClosed(socket: Socket): Promise<string> {
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk) => {
    text += chunk;
  });
  await once(socket, 'close');
  return text;
}

function scoreRequest(body: string, headers = ''): string {
  return (
    `POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}` +
    `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  );
}

/** The closing of the next connection as the server sees it, which may be after its client has seen it. */
function serverSideClose({ app }: FakeServer): Promise<void> {
  return new Promise((resolve) => app.server.once('connection', (peer) => peer.once('close', () => resolve())));
}

/** Of the one error shape, whatever came before it. */
function errorOf(reply: string): { code: string; message: string } {
  const json = /\{"error":.*\}/s.exec(reply)?.[0];
  assert.ok(json, `no error in ${reply.slice(0, 300)}`);
  return JSON.parse(json).error;
}

const outcomes = async ({ deps }: FakeServer): Promise<string> =>
  (await deps.metrics.registry.metrics()).match(/^ponder_requests_total.*$/gm)?.join('\n') ?? '';

test('a client that hangs up: its request leaves the engine, gives everything back, and is counted', async (t) => {
  const server = await listening(t, ['--requests-max', '1']);
  server.engine.shutGate();
  const socket = open(server.port);
  socket.write(scoreRequest('{"input":"abc"}'));
  await server.engine.arrived(1);
  const idle = server.admission.whenIdle();
  socket.destroy();
  await idle;
  await new Promise(setImmediate);
  assert.equal(server.engine.active, 0, 'left the engine');
  assert.match(await outcomes(server), /route="\/v1\/score",outcome="CLIENT_CLOSED"\} 1/);
  server.engine.openGate();
  const reply = await fetch(`http://127.0.0.1:${server.port}/v1/score`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"input":"abc"}',
  });
  assert.equal(reply.status, 200, 'the only permit is free again');
});

test('a client that hangs up in the middle of its body is forgotten', async (t) => {
  const argv = ['--body-bytes-max', '2000', '--text-bytes-max', '2000', '--bodies-bytes-max', '2000'];
  const server = await listening(t, argv);
  const closed = serverSideClose(server);
  const socket = open(server.port);
  socket.write(scoreRequest(`{"input":"${'x'.repeat(1500)}"}`).slice(0, -100));
  await once(server.app.server, 'request');
  socket.destroy();
  await closed;
  // The bytes it held are free: another body of that size is taken.
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'x'.repeat(1500) } });
  assert.equal(reply.statusCode, 200, reply.body);
});

test('a client that hangs up in the middle of a streamed reply frees it', async (t) => {
  const server = await listening(t, ['--queue-lanes-max', '100000']);
  const socket = open(server.port);
  socket.write(scoreRequest(JSON.stringify({ input: 'x'.repeat(200_000) })));
  await once(socket, 'data');
  assert.equal(server.admission.requestsInWork, 1);
  const idle = server.admission.whenIdle();
  socket.destroy();
  await idle;
  assert.match(await outcomes(server), /outcome="CLIENT_CLOSED"\} 1/);
});

test('a client that stops reading its reply is cut off', async (t) => {
  const server = await listening(t, ['--reply-stall-ms-max', '100', '--queue-lanes-max', '100000']);
  const socket = open(server.port);
  socket.write(scoreRequest(JSON.stringify({ input: 'x'.repeat(200_000) })));
  await once(socket, 'data');
  socket.pause();
  await server.admission.whenIdle();
  assert.match(await outcomes(server), /outcome="CLIENT_CLOSED"\} 1/);
});

test('slow headers: 408 in the one shape, and the connection is closed', async (t) => {
  const server = await listening(t, ['--headers-timeout-ms', '150', '--request-timeout-ms', '200']);
  const socket = open(server.port);
  socket.write('POST /v1/score HTTP/1.1\r\nhost: x\r\n');
  const reply = await untilClosed(socket);
  assert.match(reply, /^HTTP\/1\.1 408 /);
  assert.equal(errorOf(reply).code, 'REQUEST_TIMEOUT');
  assert.match(await outcomes(server), /route="none",outcome="REQUEST_TIMEOUT"\} 1/);
});

test('a slow body: 408, and what it held is given back', async (t) => {
  const argv = ['--headers-timeout-ms', '150', '--request-timeout-ms', '200', '--bodies-bytes-max', '4194304'];
  const server = await listening(t, argv);
  const closed = serverSideClose(server);
  const socket = open(server.port);
  socket.write(
    'POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n',
  );
  const reply = await untilClosed(socket);
  assert.equal(errorOf(reply).code, 'REQUEST_TIMEOUT');
  await closed;
  const next = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'a' } });
  assert.equal(next.statusCode, 200, next.body);
});

test('a connection that never says anything is closed', async (t) => {
  const server = await listening(t, ['--headers-timeout-ms', '100', '--request-timeout-ms', '100']);
  await untilClosed(open(server.port));
});

for (const [name, bytes] of [
  ['noise', '\u0001\u0002\u0003 nonsense\r\n\r\n'],
  ['an unknown method', 'BREW /v1/score HTTP/1.1\r\nhost: x\r\n\r\n'],
  ['two lengths', 'POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc'],
  [
    'length and chunks',
    'POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
  ],
  ['a header without a name', 'GET /health/live HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n'],
  ['TLS', '\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003'],
] as const) {
  test(`malformed HTTP, ${name}: 400 in the one shape, and the connection is closed`, async (t) => {
    const server = await listening(t);
    const socket = open(server.port);
    socket.write(Buffer.from(bytes, 'latin1'));
    const reply = await untilClosed(socket);
    assert.match(reply, /^HTTP\/1\.1 400 Bad Request\r\n/);
    assert.equal(errorOf(reply).code, 'MALFORMED_REQUEST');
    assert.match(reply, /x-request-id: /);
  });
}

test('headers too large: 431 in the one shape', async (t) => {
  const server = await listening(t, ['--header-bytes-max', '2048']);
  const socket = open(server.port);
  socket.write(`GET /health/live HTTP/1.1\r\nhost: x\r\nx-filler: ${'a'.repeat(4000)}\r\n\r\n`);
  const reply = await untilClosed(socket);
  assert.match(reply, /^HTTP\/1\.1 431 /);
  assert.match(errorOf(reply).message, /--header-bytes-max/);
});

test('an expectation that is not 100-continue: 417 in the one shape', async (t) => {
  const server = await listening(t);
  const socket = open(server.port);
  socket.write(scoreRequest('{"input":"a"}', 'expect: a miracle\r\n'));
  const reply = await untilClosed(socket);
  assert.match(reply, /^HTTP\/1\.1 417 /);
  assert.equal(errorOf(reply).code, 'EXPECTATION_FAILED');
});

for (const encoding of ['content-length', 'chunked'] as const) {
  test(`a body of 10 MB (${encoding}): a client that sends it all reads the 413, and may go on`, async (t) => {
    const server = await listening(t);
    const socket = open(server.port).setEncoding('utf8');
    let text = '';
    const replied = new Promise<void>((resolve) => {
      socket.on('data', (chunk) => {
        text += chunk;
        if (text.includes('"live"')) resolve();
      });
    });
    const body = 'a'.repeat(1e7);
    const head = 'POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';
    if (encoding === 'chunked') {
      socket.write(`${head}transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
    } else {
      socket.write(`${head}content-length: ${body.length}\r\n\r\n${body}`);
    }
    socket.write('GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n');
    await replied;
    assert.match(text, /^HTTP\/1\.1 413 /);
    assert.equal(errorOf(text.slice(0, text.indexOf('HTTP/1.1 200'))).code, 'PAYLOAD_TOO_LARGE');
    socket.destroy();
  });
}

test('a missing Host header: 400 in the one shape; HTTP/1.0 may leave it out', async (t) => {
  const server = await listening(t);
  const socket = open(server.port);
  socket.write('GET /health/live HTTP/1.1\r\nconnection: close\r\n\r\n');
  const reply = await untilClosed(socket);
  assert.match(reply, /^HTTP\/1\.1 400 /);
  assert.match(errorOf(reply).message, /the Host header is missing/);
  const old = open(server.port);
  old.write('GET /health/live HTTP/1.0\r\n\r\n');
  assert.match(await untilClosed(old), /^HTTP\/1\.1 200 /);
});

test('pipelined requests are answered in order', async (t) => {
  const server = await listening(t);
  const socket = open(server.port);
  const last = 'GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
  socket.write(scoreRequest('{"input":"a"}') + scoreRequest('{"input":""}') + last);
  const statuses = [...(await untilClosed(socket)).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
  assert.deepEqual(statuses, ['200', '422', '200']);
});

test('past connectionsMax new connections are dropped, the others live on', async (t) => {
  const server = await listening(t, ['--connections-max', '1']);
  const first = open(server.port);
  await once(first, 'connect');
  first.write('GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n');
  await once(first, 'data');
  await untilClosed(open(server.port));
  first.write('GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
  assert.match(await untilClosed(first), /200 OK/);
});
