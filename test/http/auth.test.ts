/** Who is let in, at every protocol's paths and in each protocol's own shape. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { parseKeys } from '../../src/http/api-keys.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { type FakeServer, fakeServer } from '../fakes.js';

const KEY = 'the-key-of-a-client-0123';
const EXPIRED = 'the-key-of-yesterday-0123';
const SLOW = 'the-key-of-a-slow-client';
const keys = parseKeys(
  JSON.stringify([
    { name: 'client', key: KEY },
    { name: 'yesterday', key: EXPIRED, expires: '2020-01-01' },
    { name: 'slow', key: SLOW, requests_per_minute: 2 },
  ]),
  'keys.json',
);

let server: FakeServer;
before(async () => {
  const config = parseConfig([], {});
  server = await fakeServer([], { keys: new KeyRing(keys, config, { monotonicMs, unixMs: Date.now }) });
});
after(() => server.app.close());

const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

/** A request of each protocol. */
const PATHS: readonly (readonly [method: 'GET' | 'POST', url: string, body?: object])[] = [
  ['POST', '/v1/score', { input: 'a' }],
  ['POST', '/v1/translate', { input: 'a' }],
  ['POST', '/v1/completions', { prompt: 'a' }],
  ['POST', '/tokenize', { prompt: 'a' }],
  ['GET', '/tokenizer_info'],
  ['GET', '/v1/models'],
  ['GET', '/v1/info'],
  ['GET', '/metrics'],
  ['POST', '/translate', { q: 'a', source: 'en', target: 'de' }],
  ['GET', '/v2/models/fake'],
  ['POST', '/v2/models/fake/infer', { inputs: [{ name: 'text', datatype: 'BYTES', shape: [1], data: ['a'] }] }],
];

const ask = ([method, url, payload]: (typeof PATHS)[number], headers: Record<string, string> = {}) =>
  server.app.inject({ method, url, headers, ...(payload === undefined ? {} : { payload }) });

for (const path of PATHS) {
  test(`${path[0]} ${path[1]}: a key is needed, and is enough`, async () => {
    const url = path[1];
    for (const [headers, status] of [
      [{}, url === '/translate' ? 403 : 401],
      [bearer(''), url === '/translate' ? 403 : 401],
      [bearer('wrong'), url === '/translate' ? 403 : 401],
      [{ authorization: `Basic ${KEY}` }, url === '/translate' ? 403 : 401],
      [bearer(EXPIRED), 403],
    ] as const) {
      const reply = await ask(path, headers);
      assert.equal(reply.statusCode, status, reply.body);
      assert.equal(reply.headers['www-authenticate'], 'Bearer');
      const { error } = reply.json();
      const plain = url.startsWith('/v2') || url === '/translate';
      assert.match(plain ? error : error.message, /API key/);
      if (!plain) assert.equal(error.code, status === 403 ? 'KEY_EXPIRED' : 'UNAUTHENTICATED');
      assert.ok(!reply.body.includes(EXPIRED));
    }
    assert.equal((await ask(path, bearer(KEY))).statusCode, 200);
    assert.equal(server.admission.requestsInWork, 0);
  });
}

test('without a key the body is not even received', async () => {
  const big = { method: 'POST', url: '/v1/score', headers: { 'content-length': '999999999' } } as const;
  assert.equal((await server.app.inject(big)).statusCode, 401);
});

test('what stays open: probes, the page, the documentation, and what LibreTranslate leaves open', async () => {
  const open = ['/health/live', '/health/ready', '/v2/health/live', '/v2/health/ready', '/health', '/openapi.json'];
  for (const url of [...open, '/docs', '/docs/json', '/languages', '/frontend/settings']) {
    assert.equal((await server.app.inject(url)).statusCode, 200, url);
  }
  assert.notEqual((await server.app.inject('/')).statusCode, 401);
  assert.equal((await server.app.inject('/no/such/path')).statusCode, 404);
  const settings = (await server.app.inject('/frontend/settings')).json();
  assert.deepEqual([settings.apiKeys, settings.keyRequired], [true, true]);
});

test("LibreTranslate's clients send the key in the body, a form or the query string", async () => {
  const { app } = server;
  const fields = { q: 'Ab', source: 'en', target: 'de' };
  for (const name of ['api_key', 'apiKey']) {
    const payload = { ...fields, [name]: KEY };
    const form = new URLSearchParams(payload).toString();
    const replies = [
      await app.inject({ method: 'POST', url: '/translate', payload }),
      await app.inject({ method: 'POST', url: `/translate?${form}` }),
      await app.inject({
        method: 'POST',
        url: '/translate',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
        payload: form,
      }),
    ];
    for (const reply of replies) assert.deepEqual(reply.json(), { translatedText: 'aB' });
  }
  const wrong = await app.inject({ method: 'POST', url: '/translate', payload: { ...fields, api_key: ['x'] } });
  assert.equal(wrong.statusCode, 403);
  assert.match(wrong.json().error, /wants an API key/);
});

test('a rate: 429 with Retry-After in the shape of the protocol; looking costs nothing', async () => {
  const completion = PATHS[2] as (typeof PATHS)[number];
  assert.equal((await ask(completion, bearer(SLOW))).statusCode, 200);
  assert.equal((await ask(completion, bearer(SLOW))).statusCode, 200);
  const limited = await ask(completion, bearer(SLOW));
  assert.equal(limited.statusCode, 429);
  assert.equal(limited.json().error.code, 'RATE_LIMITED');
  assert.ok(Number(limited.headers['retry-after']) > 20);
  const infer = await ask(PATHS.at(-1) as (typeof PATHS)[number], bearer(SLOW));
  assert.equal(infer.statusCode, 429);
  assert.match(infer.json().error, /2 requests a minute/);
  assert.equal((await server.app.inject({ url: '/v1/models', headers: bearer(SLOW) })).statusCode, 200);
});

test('metrics count by the name of a key and never show one', async () => {
  const { body } = await server.app.inject({ url: '/metrics', headers: bearer(KEY) });
  assert.match(body, /ponder_key_requests_total\{key="client",outcome="OK"\} \d+/);
  assert.match(body, /ponder_key_requests_total\{key="slow",outcome="RATE_LIMITED"\} 2/);
  for (const key of [KEY, EXPIRED, SLOW]) assert.ok(!body.includes(key));
});

test('without keys an empty Authorization is as good as none', async (t) => {
  const open = await fakeServer();
  t.after(() => open.app.close());
  const reply = await open.app.inject({ url: '/v1/models', headers: bearer('') });
  assert.equal(reply.statusCode, 200);
});

test('CORS: only for the origins that are named, preflight without a key, errors readable', async (t) => {
  const origin = 'https://page.example';
  const config = parseConfig([], {});
  // An injected preflight never ends its timer, which would keep this process for --reply-stall-ms-max.
  const own = await fakeServer(['--cors-origins', origin, '--reply-stall-ms-max', '100'], {
    keys: new KeyRing(keys, config, { monotonicMs, unixMs: Date.now }),
  });
  t.after(() => own.app.close());
  const preflight = await own.app.inject({
    method: 'OPTIONS',
    url: '/v1/completions',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    },
  });
  assert.equal(preflight.statusCode, 204);
  assert.equal(preflight.headers['access-control-allow-origin'], origin);
  assert.match(String(preflight.headers['access-control-allow-headers']), /authorization/);
  const refused = await own.app.inject({ url: '/v1/models', headers: { origin } });
  assert.equal(refused.statusCode, 401);
  assert.equal(refused.headers['access-control-allow-origin'], origin);
  const other = await own.app.inject({
    url: '/v1/models',
    headers: { origin: 'https://other.example', ...bearer(KEY) },
  });
  assert.equal(other.headers['access-control-allow-origin'], undefined);
  assert.equal((await own.app.inject({ url: '/nothing', headers: bearer(KEY) })).statusCode, 404);
  // Without the option there are no such headers at all.
  const none = await server.app.inject({ url: '/health/live', headers: { origin } });
  assert.equal(none.headers['access-control-allow-origin'], undefined);
});
