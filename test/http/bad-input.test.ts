import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { ERRORS, type ErrorCode } from '../../src/errors.js';
import { type FakeServer, fakeServer } from '../fakes.js';

/** What is sent, what comes back: the code, the field at fault, and words of the message that say what to do. */
interface Case {
  readonly name: string;
  readonly body: unknown;
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly says: RegExp;
}

const ids = (count: number): number[] => new Array(count).fill(1);
const invalid = (name: string, body: unknown, param: string | null, says: RegExp): Case => ({
  name,
  body,
  code: 'INVALID_REQUEST',
  param,
  says,
});

const CASES: readonly Case[] = [
  invalid('empty text', { input: '' }, 'input', /empty: send at least one character/),
  invalid('empty text in a list', { input: ['a', ''] }, 'input[1]', /input\[1\] is empty/),
  invalid('no texts', { input: [] }, 'input', /empty list; it must be a text/),
  invalid('no tokens', { input: [[1], []] }, 'input[1]', /holds no tokens: send at least one/),
  invalid(
    '10,000 inputs',
    { input: new Array(10_000).fill('a') },
    'input',
    /10000 texts, at most 1024.*split.*--inputs-max/,
  ),
  invalid('lone surrogate', '{"input":"ab\\ud800c"}', 'input', /lone surrogate \(U\+D800\) at offset 2/),
  invalid('lone low surrogate in a list', '{"input":["a","\\uDFFF"]}', 'input[1]', /\(U\+DFFF\) at offset 0/),
  invalid('id below the vocabulary', { input: [1, -1] }, 'input', /token id -1 at place 1; ids are 0 to 256/),
  invalid('id above the vocabulary', { input: [[1], [257]] }, 'input[1]', /token id 257 at place 0/),
  invalid('id beyond 32 bits', { input: [2 ** 40] }, 'input', /token id 1099511627776/),
  invalid('id beyond all numbers', '{"input":[1e999]}', 'input', /input\[0\] is a non-integer number/),
  invalid(
    'fraction as id',
    { input: [1, 2.5] },
    'input',
    /input\[0\] is an integer but input\[1\] is a non-integer number/,
  ),
  invalid('texts and ids mixed', { input: ['a', 1] }, 'input', /input\[0\] is a text but input\[1\] is an integer/),
  invalid('lists too deep', { input: [[[1]]] }, 'input', /input\[0\] holds more than integers/),
  invalid('lists and texts mixed', { input: [[1], 'a'] }, 'input', /input\[1\] is a text/),
  invalid('null input', { input: null }, 'input', /not null/),
  invalid('object input', { input: { text: 'a' } }, 'input', /not an object/),
  invalid('no input', { model: 'fake' }, 'input', /input is required: a text/),
  invalid(
    'unknown field',
    { input: 'a', max_step: 3 },
    'max_step',
    /unknown field 'max_step': did you mean max_steps\?/,
  ),
  invalid('unknown field, far off', { input: 'a', zzzzzz: 3 }, 'zzzzzz', /the fields are input, model/),
  invalid('prototype field', '{"input":"a","__proto__":{"x":1}}', '__proto__', /unknown field '__proto__'/),
  invalid('field name with controls', { input: 'a', 'x\u0000\u001b[31m': 1 }, 'x\uFFFD\uFFFD[31m', /unknown field/),
  invalid(
    'text for a number',
    { input: 'a', max_steps: '3' },
    'max_steps',
    /must be an integer from 1 to 8, not a text/,
  ),
  invalid('max_steps 0', { input: 'a', max_steps: 0 }, 'max_steps', /must be an integer from 1 to 8, not 0/),
  invalid(
    'max_steps above',
    { input: 'a', max_steps: 9 },
    'max_steps',
    /integer from 1 to 8 \(the model's maximum\), not 9/,
  ),
  invalid('max_steps 1.5', { input: 'a', max_steps: 1.5 }, 'max_steps', /an integer/),
  invalid('min over max', { input: 'a', max_steps: 2, min_steps: 3 }, 'min_steps', /from 1 to 2 \(max_steps\), not 3/),
  invalid('min_steps above', { input: 'a', min_steps: 9 }, 'min_steps', /from 1 to 8 \(the model's maximum\)/),
  invalid('threshold 0', { input: 'a', threshold: 0 }, 'threshold', /a number above 0 and at most 1/),
  invalid('threshold 1.01', { input: 'a', threshold: 1.01 }, 'threshold', /a number above 0 and at most 1/),
  invalid('deadline 0', { input: 'a', deadline_ms: 0 }, 'deadline_ms', /an integer from 1 to 600000, not 0/),
  invalid(
    'deadline above',
    { input: 'a', deadline_ms: 600_001 },
    'deadline_ms',
    /from 1 to 600000 \(--deadline-ms-max\)/,
  ),
  invalid('top_logprobs 21', { input: 'a', top_logprobs: 21 }, 'top_logprobs', /an integer from 0 to 20/),
  invalid('top_logprobs -1', { input: 'a', top_logprobs: -1 }, 'top_logprobs', /an integer from 0 to 20/),
  invalid('stride 0', { input: 'a', stride: 0 }, 'stride', /an integer from 1 to 16, not 0/),
  invalid('min_steps 0', { input: 'a', min_steps: 0 }, 'min_steps', /an integer from 1 to 8, not 0/),
  invalid(
    'a span below 0',
    { input: 'a', model: 'span-lm-bytes', span_max: -1 },
    'span_max',
    /an integer from 0 to 64, not -1/,
  ),
  invalid(
    'stride of the context',
    { input: 'a', stride: 17 },
    'stride',
    /from 1 to 16 \(the model's context less one\)/,
  ),
  invalid('return_tokens 1', { input: 'a', return_tokens: 1 }, 'return_tokens', /true or false/),
  invalid('model 3', { input: 'a', model: 3 }, 'model', /a text/),
  invalid('null body', 'null', null, /the body must be a JSON object/),
  invalid('list body', '[]', null, /the body must be a JSON object/),
  invalid('text body', '"a"', null, /the body must be a JSON object/),
  {
    name: 'unknown model',
    body: { input: 'a', model: 'gpt' },
    code: 'UNKNOWN_MODEL',
    param: 'model',
    says: /use one of fake, span-lm-bytes$/,
  },
  { name: 'empty body', body: '', code: 'MALFORMED_JSON', param: null, says: /the body is empty: send/ },
  { name: 'half a body', body: '{"input":', code: 'MALFORMED_JSON', param: null, says: /it ends too early/ },
  { name: 'not JSON', body: '{"input":a}', code: 'MALFORMED_JSON', param: null, says: /not valid JSON.*: correct it/ },
  { name: 'deep brackets', body: '['.repeat(100_000), code: 'MALFORMED_JSON', param: null, says: /not valid JSON/ },
  {
    name: 'invalid UTF-8',
    body: Buffer.from([...Buffer.from('{"input":"'), 0xff, 0xc0, ...Buffer.from('"}')]),
    code: 'MALFORMED_JSON',
    param: null,
    says: /not valid UTF-8: encode it as UTF-8/,
  },
  {
    name: 'a surrogate in UTF-8',
    body: Buffer.from([...Buffer.from('{"input":"'), 0xed, 0xa0, 0x80, ...Buffer.from('"}')]),
    code: 'MALFORMED_JSON',
    param: null,
    says: /not valid UTF-8/,
  },
  {
    name: '10 MB of text',
    body: { input: 'a'.repeat(1e7) },
    code: 'PAYLOAD_TOO_LARGE',
    param: null,
    says: /--body-bytes-max/,
  },
  {
    name: 'text too long',
    body: { input: ['a', 'é'.repeat(6e5)] },
    code: 'PAYLOAD_TOO_LARGE',
    param: 'input[1]',
    says: /--text-bytes-max/,
  },
  {
    name: 'too many tokens',
    body: { input: ids(1_048_577) },
    code: 'PAYLOAD_TOO_LARGE',
    param: 'input',
    says: /--queue-tokens-max/,
  },
  {
    name: 'stride too small',
    body: { input: 'a'.repeat(9e5), stride: 1 },
    code: 'PAYLOAD_TOO_LARGE',
    param: 'input',
    says: /larger stride/,
  },
  {
    name: 'too many windows',
    body: { input: 'a'.repeat(5e4), stride: 10 },
    code: 'PAYLOAD_TOO_LARGE',
    param: 'input',
    says: /--queue-lanes-max/,
  },
];

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

for (const { name, body, code, param, says } of CASES) {
  test(`${name}: ${code}`, async () => {
    const payload = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
    const headers = { 'content-type': 'application/json' };
    const reply = await server.app.inject({ method: 'POST', url: '/v1/score', headers, payload });
    assert.equal(reply.statusCode, ERRORS[code].status, reply.body.slice(0, 500));
    const { error } = reply.json();
    assert.deepEqual(Object.keys(error), ['code', 'message', 'type', 'param']);
    assert.equal(error.code, code);
    assert.equal(error.type, ERRORS[code].type);
    assert.equal(error.param, param);
    assert.match(error.message, says);
    assert.ok(error.message.length < 400 && !error.message.includes('\n'));
    assert.ok(reply.headers['x-request-id']);
  });
}

test('nothing of that reached the engine, and nothing is held', () => {
  assert.equal(server.engine.requests.length, 0);
  assert.equal(server.admission.requestsInWork, 0);
});

for (const [type, extra] of [
  ['text/plain', {}],
  ['application/x-www-form-urlencoded', {}],
  ['application/json; charset=latin1', {}],
  ['nonsense', {}],
  ['application/json', { 'content-encoding': 'gzip' }],
] as const) {
  test(`content type ${type} ${JSON.stringify(extra)}: 415`, async () => {
    const headers = { 'content-type': type, ...extra };
    const reply = await server.app.inject({ method: 'POST', url: '/v1/score', headers, payload: '{"input":"a"}' });
    assert.equal(reply.statusCode, 415, reply.body);
    assert.match(reply.json().error.message, /send application\/json in UTF-8, uncompressed/);
  });
}

test('a charset of UTF-8 is accepted however it is spelt', async () => {
  for (const type of ['application/json;charset=UTF-8', 'application/json; charset="utf8"', 'Application/JSON']) {
    const headers = { 'content-type': type };
    const reply = await server.app.inject({ method: 'POST', url: '/v1/score', headers, payload: '{"input":"a"}' });
    assert.equal(reply.statusCode, 200, `${type}: ${reply.body}`);
  }
});

test('a body without a content type: 415; no body at all: 422', async () => {
  const withBody = await server.app.inject({ method: 'POST', url: '/v1/score', payload: Buffer.from('{"input":"a"}') });
  assert.equal(withBody.statusCode, 415, withBody.body);
  assert.match(
    withBody.json().error.message,
    /^a body without Content-Type .* \(-H 'content-type: application\/json'\)$/,
  );
  const without = await server.app.inject({ method: 'POST', url: '/v1/score' });
  assert.equal(without.statusCode, 422, without.body);
});

test('who looks for chat is told of completions', async () => {
  const reply = await server.app.inject({ method: 'POST', url: '/v1/chat/completions', payload: { messages: [] } });
  assert.equal(reply.statusCode, 404);
  assert.match(reply.json().error.message, /do not chat: use POST \/v1\/completions/);
});

test('a wrong method: 405 with Allow; an unknown path: 404; both in the one shape', async () => {
  for (const method of ['GET', 'PUT', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS'] as const) {
    const reply = await server.app.inject({ method, url: '/v1/score?x=1' });
    assert.equal(reply.statusCode, 405);
    assert.equal(reply.headers.allow, 'POST');
    if (method !== 'HEAD') assert.match(reply.json().error.message, /is not allowed here: use POST/);
  }
  const models = await server.app.inject({ method: 'POST', url: '/v1/models/fake', payload: { a: 1 } });
  assert.equal(models.statusCode, 405, models.body);
  assert.equal(models.headers.allow, 'GET, HEAD');
  for (const url of [
    '/page/none.js',
    '/page/',
    '/page/views',
    '/v1',
    '/v1/score/',
    '/docs/static/nope.js',
    '/%00',
    `/${'x'.repeat(5000)}`,
  ]) {
    const reply = await server.app.inject(url);
    assert.equal(reply.statusCode, 404, `${url.slice(0, 20)} ${reply.body}`);
    assert.equal(reply.json().error.code, 'NOT_FOUND');
  }
});

test('a path that is not a path: 400, and paths out of the documents stay inside', async () => {
  const bad = await server.app.inject('/v1/models/%zz');
  assert.equal(bad.statusCode, 400, bad.body);
  assert.equal(bad.json().error.code, 'MALFORMED_REQUEST');
  for (const url of [
    '/docs/static/..%2f..%2fpackage.json',
    '/docs/static/%2e%2e/%2e%2e/package.json',
    '/v1/models/..%2f..',
  ]) {
    const reply = await server.app.inject(url);
    assert.ok([400, 404].includes(reply.statusCode), `${url}: ${reply.statusCode}`);
    assert.ok(reply.json().error.code, reply.body);
  }
  const long = await server.app.inject(`/v1/models/${'x'.repeat(400)}`);
  assert.equal(long.statusCode, 404, long.body);
  assert.ok(long.json().error.code);
});

test('a defect becomes 500 without its details', async () => {
  server.engine.failWith(new TypeError('secret of the implementation'));
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'a' } });
  server.engine.failWith(null);
  assert.equal(reply.statusCode, 500);
  assert.equal(reply.json().error.code, 'INTERNAL');
  assert.ok(!reply.body.includes('secret'));
  assert.ok(reply.json().error.message.includes(reply.headers['x-request-id']));
});
