import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { CompletionBody } from '../../src/http/completion-schemas.js';
import { ScoreBody } from '../../src/http/schemas.js';
import { TranslateBody } from '../../src/http/translate-schemas.js';
import { type FakeServer, fakeServer } from '../fakes.js';

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

/** A field of each kind of reply. */
const REPLIES = ['results', 'translatedText', 'choices', 'tokens', 'prompt', 'outputs'];
const RUNS = { numRuns: 150 };
const STATUSES = new Set([200, 400, 404, 413, 415, 422]);

async function answers(url: string, payload: string | Buffer): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  const reply = await server.app.inject({ method: 'POST', url, headers, payload });
  assert.ok(STATUSES.has(reply.statusCode), `${reply.statusCode} ${reply.body}`);
  assert.equal(server.admission.requestsInWork, 0);
  if (String(reply.headers['content-type']).startsWith('text/event-stream')) {
    assert.match(reply.body, /data: \[DONE\]\n\n$/);
    return;
  }
  const body = reply.json();
  if (reply.statusCode === 200) assert.ok(Array.isArray(body) || REPLIES.some((field) => field in body));
  else if (/^\/(v1|de|to)/.test(url) && url !== '/detect') assert.ok(body.error.code && body.error.message);
  else assert.ok(typeof body.error === 'string');
}

const PATHS = ['/v1/score', '/v1/translate', '/translate', '/detect', '/v1/completions', '/tokenize', '/detokenize'];
for (const url of [...PATHS, '/v2/models/fake/infer']) {
  test(`${url}: any JSON is answered, never with 500`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.json({ depthSize: 'medium' }), (payload) => answers(url, payload)),
      RUNS,
    );
  });

  test(`${url}: any bytes are answered, never with 500`, async () => {
    const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
    await fc.assert(
      fc.asyncProperty(bytes, (payload) => answers(url, payload)),
      RUNS,
    );
  });
}

const number = fc.oneof(fc.integer({ min: -2, max: 30 }), fc.double(), fc.constantFrom(0, -0, 1e308, 2 ** 53));
const text = fc.string({ unit: 'binary', maxLength: 80 });
const odd = fc.oneof({ weight: 3, arbitrary: number }, fc.boolean(), fc.constant(null), text);

/** @param known fields; the first one holds the text */
async function anyFields(url: string, [input = '', ...known]: readonly string[], values: fc.Arbitrary<unknown>) {
  const extras = fc.dictionary(fc.constantFrom(...known), odd, { maxKeys: 3 });
  const body = fc.tuple(values, extras).map(([value, extra]) => JSON.stringify({ [input]: value, ...extra }));
  await fc.assert(
    fc.asyncProperty(body, (payload) => answers(url, payload)),
    RUNS,
  );
}

test('any values in the known fields are answered, never with 500', async () => {
  const ids = fc.array(fc.integer({ min: -1, max: 258 }), { maxLength: 60 });
  const lists = fc.oneof(fc.array(text, { maxLength: 4 }), ids, fc.array(ids, { maxLength: 4 }));
  await anyFields('/v1/score', Object.keys(ScoreBody.properties), fc.oneof(text, lists, fc.jsonValue()));
});

test('any values in the known fields of a completion are answered, never with 500', async () => {
  const ids = fc.array(fc.integer({ min: -1, max: 258 }), { maxLength: 20 });
  const prompts = fc.oneof(
    fc.array(text, { maxLength: 4 }),
    ids,
    fc.array(ids, { maxLength: 4 }),
    text,
    fc.jsonValue(),
  );
  await anyFields('/v1/completions', Object.keys(CompletionBody.properties), prompts);
});

test('any values in the known fields of a translation are answered, never with 500', async () => {
  const values = fc.oneof(text, fc.array(text, { maxLength: 4 }), fc.jsonValue());
  await anyFields('/v1/translate', Object.keys(TranslateBody.properties), values);
  const own = ['q', 'format', 'alternatives', 'api_key', 'source', 'target'];
  await anyFields('/translate', own, values);
});

test('any form and any query string are answered by /translate, never with 500', async () => {
  const pair = fc.tuple(fc.constantFrom('q', 'source', 'target', 'format', 'alternatives', 'x'), fc.string());
  const odds = fc.oneof(
    fc.array(pair).map((pairs) => new URLSearchParams(pairs).toString()),
    fc.string(),
  );
  const headers = { 'content-type': 'application/x-www-form-urlencoded' };
  await fc.assert(
    fc.asyncProperty(odds, odds, async (payload, query) => {
      const url = `/translate?${encodeURI(query).replace(/#/g, '')}`;
      const reply = await server.app.inject({ method: 'POST', url, headers, payload });
      assert.ok(STATUSES.has(reply.statusCode), `${reply.statusCode} ${reply.body}`);
    }),
    RUNS,
  );
});

test('every well-formed text is scored: its tokens read back as the text', async () => {
  const wellFormed = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 100 });
  await fc.assert(
    fc.asyncProperty(wellFormed, async (input) => {
      const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input } });
      assert.equal(reply.statusCode, 200, reply.body);
      const ids: number[] = reply.json().results[0].tokens.map(({ id }: { id: number }) => id);
      assert.equal(Buffer.from(ids).toString(), input);
    }),
    { numRuns: 100 },
  );
});
