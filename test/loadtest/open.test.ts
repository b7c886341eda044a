/** The open loop against a server of fakes, at once and through the command. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { runScenario } from '../../loadtest/open.js';
import { type Answer, OpenClient, type Planned } from '../../loadtest/open-client.js';
import { disagreementsOf } from '../../loadtest/server-counts.js';
import { drawLength } from '../../loadtest/texts.js';
import { recordedIo } from '../cli/streams.js';
import { type FakeServer, fakeServer } from '../fakes.js';
import { Random } from '../seed.js';

const NEVER = new AbortController().signal;
const planned: Planned = { path: '/v1/score', body: '{"input":"a"}', tenant: null };

async function listening(t: TestContext, argv: readonly string[] = []): Promise<FakeServer & { url: string }> {
  const server = await fakeServer(argv);
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => server.app.close());
  return { ...server, url: `http://127.0.0.1:${(server.app.server.address() as AddressInfo).port}` };
}

function clientOf(t: TestContext, url: string): OpenClient {
  const client = new OpenClient(url);
  t.after(() => client.close());
  return client;
}

test('a stall is charged to every request that it delays', async (t) => {
  const server = await listening(t);
  const client = clientOf(t, server.url);
  server.engine.shutGate();
  const driven = client.drive(
    [0, 10, 20, 30].map((atMs) => ({ atMs, planned })),
    NEVER,
  );
  await server.engine.arrived(4);
  const openedAtMs = Number(process.hrtime.bigint()) / 1e6;
  server.engine.openGate();
  const answers = await driven;
  for (const { outcome, intendedAtMs, endedAtMs } of answers) {
    assert.equal(outcome, 'OK');
    assert.ok(endedAtMs >= openedAtMs);
    assert.ok(intendedAtMs - (answers[0] as Answer).intendedAtMs <= 30, 'the intended times do not move');
  }
});

test('every way in which a request can end has a name', async (t) => {
  const full = await listening(t, ['--requests-max', '1']);
  const client = clientOf(t, full.url);
  full.engine.shutGate();
  const first = client.send(planned, 0);
  await full.engine.arrived(1);
  const refused = await client.send(planned, 0);
  assert.equal(refused.outcome, 'QUEUE_FULL');
  assert.ok((refused.retryAfterSeconds ?? 0) >= 1);
  full.engine.openGate();
  const { outcome, reply } = await first;
  assert.equal(outcome, 'OK');
  assert.equal(reply?.tokens, 1);
  const stream = await client.send({ ...planned, path: '/v1/translate', body: '{"input":"Hi.","stream":true}' }, 0);
  assert.equal(stream.outcome, 'OK');
  assert.ok(stream.firstEventAtMs !== null && (stream.reply?.targetTokens ?? 0) > 0);

  const rude = createServer((request) => request.socket.destroy()).listen(0, '127.0.0.1');
  t.after(() => rude.close());
  await once(rude, 'listening');
  const broken = await clientOf(t, `http://127.0.0.1:${(rude.address() as AddressInfo).port}`).send(planned, 0);
  assert.equal(broken.outcome, 'socket: ECONNRESET');
  const chatty = createServer((_request, response) => response.end('hello')).listen(0, '127.0.0.1');
  t.after(() => chatty.close());
  await once(chatty, 'listening');
  const empty = await clientOf(t, `http://127.0.0.1:${(chatty.address() as AddressInfo).port}`).send(planned, 0);
  assert.match(empty.outcome, /^no JSON/);
});

test('client and server disagree: a request that got two answers, or none, or tokens that nobody has', () => {
  const counted = { outcomes: { '/v1/score OK': 3 }, tokens: 9, sourceTokens: 0, targetTokens: 0 };
  assert.deepEqual(disagreementsOf(3, counted, counted), []);
  assert.deepEqual(disagreementsOf(4, counted, { ...counted, outcomes: { '/v1/score OK': 4 }, tokens: 12 }), [
    '4 requests were sent and 3 answered',
    '/v1/score OK: 4 at the server, 3 at the client',
    'tokens: 12 at the server, 9 at the client',
  ]);
});

test('lengths have a heavy tail and a limit', () => {
  const random = new Random(1);
  const lengths = Array.from({ length: 5000 }, () => drawLength(random, { medianWords: 60, sigma: 1, maxWords: 1500 }));
  lengths.sort((a, b) => a - b);
  const [median = 0, late = 0] = [lengths[2500], lengths[4950]];
  assert.ok(Math.abs(median - 60) < 6, `median ${median}`);
  assert.ok(late > 450 && late <= 1500, `p99 ${late}`);
});

test('a scenario from its flags to its report; a server that miscounts fails it', async (t) => {
  const server = await listening(t, ['--queue-lanes-max', '100000']);
  const io = recordedIo();
  const argv = ['--url', server.url, '--seconds', '1', '--rate', '40', '--json'];
  assert.equal(await runScenario('diurnal', argv, io), 0, io.stderr.text);
  const { phases, problems } = JSON.parse(io.stdout.text) as {
    phases: { sent: number; latency: { count: number }; depthHistogram: number[]; meanDepth: number }[];
    problems: string[];
  };
  assert.deepEqual(problems, []);
  assert.equal(phases.length, 1);
  assert.ok((phases[0]?.sent ?? 0) > 5 && phases[0]?.latency.count === phases[0]?.sent);
  assert.ok((phases[0]?.meanDepth ?? 0) > 1);

  const scored = server.deps.observer.scored.bind(server.deps.observer);
  server.deps.observer.scored = (request) => scored({ ...request, tokens: request.tokens + 1 });
  const wrong = recordedIo();
  assert.equal(await runScenario('diurnal', argv, wrong), 1);
  assert.match(wrong.stderr.text, /FAILED .*tokens: \d+ at the server, \d+ at the client/);
});
