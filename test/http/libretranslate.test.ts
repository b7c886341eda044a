/** LibreTranslate's contract: shapes, words and statuses as its own tests have them. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import { after, before, test } from 'node:test';
import { Value } from 'typebox/value';
import { LibreTranslateReply } from '../../src/http/libretranslate-schemas.js';
import { describeModel, describeTranslator, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

const FORM = { 'content-type': 'application/x-www-form-urlencoded' };
const form = (fields: Record<string, string>, url = '/translate') =>
  server.app.inject({ method: 'POST', url, headers: FORM, payload: new URLSearchParams(fields).toString() });
const json = (payload: object | string, url = '/translate') =>
  server.app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json' }, payload });
const query = (fields: Record<string, string>, url = '/translate') =>
  server.app.inject({ method: 'POST', url: `${url}?${new URLSearchParams(fields)}` });

const ende = { source: 'en', target: 'de' };

test('JSON, form and query string are the same request', async () => {
  const fields = { q: 'Hello & good-bye', ...ende, format: 'text', api_key: '' };
  for (const send of [form, json, query]) {
    const reply = await send(fields);
    assert.equal(reply.statusCode, 200, reply.body);
    assert.deepEqual(reply.json(), { translatedText: 'hELLO & GOOD-BYE' });
  }
});

test('the query string completes a form; of a name given twice the first counts', async () => {
  const url = '/translate?source=en&target=de&target=zz';
  const reply = await server.app.inject({ method: 'POST', url, headers: FORM, payload: 'q=Abc&q=Def&source=zz' });
  assert.deepEqual(reply.json(), { translatedText: 'aBC' });
});

test('a list of texts: every field is a list', async () => {
  const reply = await json({ q: ['Good', '', 'Day'], source: 'auto', target: 'de', alternatives: 1 });
  const body = reply.json();
  assert.ok(Value.Check(LibreTranslateReply, body));
  assert.deepEqual(body.translatedText, ['gOOD', '', 'dAY']);
  assert.deepEqual(body.detectedLanguage, new Array(3).fill({ confidence: 90, language: 'en' }));
  assert.equal(body.alternatives?.length, 3);
  assert.deepEqual(body.alternatives?.[2], ['dAY!']);
});

test('detectedLanguage only for auto, alternatives only when asked for', async () => {
  const auto = (await json({ q: 'Abc', source: 'auto', target: 'de' })).json();
  assert.deepEqual(auto, { translatedText: 'aBC', detectedLanguage: { confidence: 90, language: 'en' } });
  for (const alternatives of [2, '2', 2.9]) {
    const body = (await json({ q: 'Abc', ...ende, alternatives })).json();
    assert.deepEqual(body, { translatedText: 'aBC', alternatives: ['aBC!', 'aBC!!'] });
  }
  for (const alternatives of [0, -3, null, '']) {
    assert.deepEqual((await json({ q: 'Abc', ...ende, alternatives })).json(), { translatedText: 'aBC' });
  }
});

test('format html keeps the tags', async () => {
  const reply = await form({ q: '<p>Hello</p>', ...ende, format: 'html' });
  assert.deepEqual(reply.json(), { translatedText: '<p>hELLO</p>' });
});

test('from a language into itself a text passes as it is', async () => {
  const already = server.engine.translations.length;
  assert.deepEqual((await json({ q: 'Guten Tag', source: 'de', target: 'de' })).json(), {
    translatedText: 'Guten Tag',
  });
  assert.deepEqual((await json({ q: ['Guten Tag'], source: 'auto', target: 'de', alternatives: 1 })).json(), {
    translatedText: ['Guten Tag'],
    detectedLanguage: [{ confidence: 90, language: 'de' }],
    alternatives: [[]],
  });
  assert.equal(server.engine.translations.length, already);
});

test('what is wrong is said in its words, with 400', async () => {
  const q = 'Hello';
  const cases: [object | string, string | RegExp][] = [
    [{ ...ende }, 'Invalid request: missing q parameter'],
    [{ q: '', ...ende }, 'Invalid request: missing q parameter'],
    [{ q: [], ...ende }, 'Invalid request: missing q parameter'],
    [{ q, target: 'de' }, 'Invalid request: missing source parameter'],
    [{ q, source: 'en' }, 'Invalid request: missing target parameter'],
    [{ q, source: 'zz', target: 'de' }, 'zz is not supported'],
    [{ q, source: 'en', target: 'zz' }, 'zz is not supported'],
    [{ q, source: 'de', target: 'en' }, 'English (en) is not available as a target language from German (de)'],
    [{ q, ...ende, format: 'xml' }, 'xml format is not supported'],
    [{ q, ...ende, alternatives: 'abc' }, 'Invalid request: alternatives parameter is not a number'],
    [{ q, ...ende, alternatives: 8 }, 'Invalid request: alternatives parameter must be <= 7'],
    [['not', 'an', 'object'], 'Invalid JSON format'],
    ['null', 'Invalid JSON format'],
    ['{"q":', /not valid JSON/],
    [{ q: 5, ...ende }, /q is neither a text nor a list of texts/],
    [{ q: ['a', 5], ...ende }, /q\[1\] is not a text/],
    [{ q: { a: 1 }, ...ende }, /q is neither/],
    ['{"q":"\\ud800","source":"en","target":"de"}', /q holds a lone surrogate/],
    [{ q: new Array(1025).fill('a'), ...ende }, /q holds 1025 texts, at most 1024/],
    [{ q: 'a'.repeat(2e6), ...ende }, /q exceeds 1048576 bytes/],
  ];
  for (const [payload, says] of cases) {
    const reply = await json(typeof payload === 'string' ? payload : JSON.stringify(payload));
    assert.equal(reply.statusCode, 400, reply.body.slice(0, 200));
    const body = reply.json();
    assert.deepEqual(Object.keys(body), ['error']);
    if (typeof says === 'string') assert.equal(body.error, says);
    else assert.match(body.error, says);
  }
});

test('a detected language that is not served is named, and what to do', async () => {
  const french = { detect: () => [{ language: 'fr', confidence: 81 }] };
  const other = await fakeServer([], { detector: french });
  const payload = { q: 'Bonjour', source: 'auto', target: 'de' };
  const reply = await other.app.inject({ method: 'POST', url: '/translate', payload });
  await other.app.close();
  assert.equal(reply.statusCode, 400);
  const error = "fr is not supported (the text looks like French; if it isn't, set source to one of en, de)";
  assert.deepEqual(reply.json(), { error });
});

test('languages: every one that is translated from or into, and into itself', async () => {
  assert.deepEqual((await server.app.inject('/languages')).json(), [
    { code: 'en', name: 'English', targets: ['de', 'en'] },
    { code: 'de', name: 'German', targets: ['de'] },
  ]);
  const engine = new FakeEngine([
    describeTranslator({ id: 'a' }),
    describeTranslator({ id: 'b', language: 'de', targetLanguage: 'en' }),
  ]);
  const both = await fakeServer([], { engine });
  assert.deepEqual((await both.app.inject('/languages')).json()[1], {
    code: 'de',
    name: 'German',
    targets: ['de', 'en'],
  });
  await both.app.close();
});

test('detect: a list, best first; without q 400', async () => {
  for (const send of [form, json, query]) {
    assert.deepEqual((await send({ q: 'Guten Morgen' }, '/detect')).json(), [{ language: 'de', confidence: 90 }]);
  }
  assert.equal((await json({ q: ['One', 'Two'] }, '/detect')).statusCode, 200);
  const reply = await server.app.inject({ method: 'POST', url: '/detect' });
  assert.equal(reply.statusCode, 400);
  assert.deepEqual(reply.json(), { error: 'Invalid request: missing q parameter' });
});

test("the page's settings, and health", async () => {
  const settings = (await server.app.inject('/frontend/settings')).json();
  assert.deepEqual(settings.language, {
    source: { code: 'auto', name: 'Auto Detect' },
    target: { code: 'de', name: 'German' },
  });
  assert.equal(settings.keyRequired, false);
  assert.equal(settings.charLimit, 1_048_576);
  assert.deepEqual((await server.app.inject('/health')).json(), { status: 'ok' });
});

test('a wrong method: 405; other errors keep their status in its shape', async () => {
  for (const [method, url] of [
    ['GET', '/translate?q=a'],
    ['GET', '/detect'],
    ['POST', '/health'],
    ['POST', '/languages'],
  ] as const) {
    const reply = await server.app.inject({ method, url });
    assert.equal(reply.statusCode, 405, `${method} ${url}`);
    assert.equal(typeof reply.json().error, 'string');
  }
  const text = await server.app.inject({
    method: 'POST',
    url: '/translate',
    headers: { 'content-type': 'text/plain' },
    payload: 'a',
  });
  assert.equal(text.statusCode, 415);
  assert.match(text.json().error, /application\/json in UTF-8.*application\/x-www-form-urlencoded/);
  const busy = await fakeServer();
  busy.engine.state = 'restarting';
  for (const reply of [
    await busy.app.inject('/health'),
    await busy.app.inject({ method: 'POST', url: '/translate' }),
  ]) {
    assert.equal(reply.statusCode, 503);
    assert.ok(reply.headers['retry-after']);
    assert.equal(typeof reply.json().error, 'string');
  }
  await busy.app.close();
});

test('its body parsers are for its paths alone', async () => {
  const payload = 'input=a';
  assert.equal(
    (await server.app.inject({ method: 'POST', url: '/v1/translate', headers: FORM, payload })).statusCode,
    415,
  );
});

test('without a translation model there are no languages, and nothing breaks', async () => {
  const none = await fakeServer([], { engine: new FakeEngine([describeModel()]) });
  assert.deepEqual((await none.app.inject('/languages')).json(), []);
  const reply = await none.app.inject({ method: 'POST', url: '/translate', payload: { q: 'a', ...ende } });
  assert.deepEqual(reply.json(), { error: 'en is not supported' });
  assert.equal((await none.app.inject('/frontend/settings')).statusCode, 200);
  await none.app.close();
});

test('a GET with a body, as libretranslatepy sends it, is answered, and so is what follows on the connection', async () => {
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  const socket = connect((server.app.server.address() as AddressInfo).port, '127.0.0.1').setEncoding('utf8');
  const head = 'GET /languages HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n';
  socket.write(`${head}content-length: 9\r\n\r\napi_key=x${head}connection: close\r\ncontent-length: 0\r\n\r\n`);
  let received = '';
  socket.on('data', (chunk) => {
    received += chunk;
  });
  await once(socket, 'close');
  assert.equal(received.match(/HTTP\/1\.1 200 OK/g)?.length, 2, received);
});
