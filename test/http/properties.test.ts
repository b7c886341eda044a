import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { ScoreBody } from '../../src/http/schemas.js';
import { type FakeServer, fakeServer } from '../fakes.js';

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

const RUNS = { numRuns: 300 };
const STATUSES = new Set([200, 400, 404, 413, 415, 422]);

async function answers(payload: string | Buffer): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', headers, payload });
  assert.ok(STATUSES.has(reply.statusCode), `${reply.statusCode} ${reply.body}`);
  const body = reply.json();
  if (reply.statusCode === 200) assert.ok(Array.isArray(body.results));
  else assert.ok(typeof body.error.code === 'string' && typeof body.error.message === 'string');
  assert.equal(server.admission.requestsInWork, 0);
}

test('any JSON is answered, never with 500', async () => {
  await fc.assert(fc.asyncProperty(fc.json({ depthSize: 'medium' }), answers), RUNS);
});

test('any bytes are answered, never with 500', async () => {
  const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
  await fc.assert(fc.asyncProperty(bytes, answers), RUNS);
});

test('any values in the known fields are answered, never with 500', async () => {
  const number = fc.oneof(fc.integer({ min: -2, max: 30 }), fc.double(), fc.constantFrom(0, -0, 1e308, 2 ** 53));
  const text = fc.string({ unit: 'binary', maxLength: 80 });
  const ids = fc.array(fc.integer({ min: -1, max: 258 }), { maxLength: 60 });
  const input = fc.oneof(text, fc.array(text, { maxLength: 4 }), ids, fc.array(ids, { maxLength: 4 }), fc.jsonValue());
  const odd = fc.oneof({ weight: 3, arbitrary: number }, fc.boolean(), fc.constant(null), text);
  const fields = Object.keys(ScoreBody.properties).filter((field) => field !== 'input');
  const extras = fc.dictionary(fc.constantFrom(...fields), odd, { maxKeys: 3 });
  const body = fc.tuple(input, extras).map(([value, extra]) => JSON.stringify({ input: value, ...extra }));
  await fc.assert(fc.asyncProperty(body, answers), RUNS);
});

test('every well-formed text is scored: its tokens read back as the text', async () => {
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 100 });
  await fc.assert(
    fc.asyncProperty(text, async (input) => {
      const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload: { input } });
      assert.equal(reply.statusCode, 200, reply.body);
      const ids: number[] = reply.json().results[0].tokens.map(({ id }: { id: number }) => id);
      assert.equal(Buffer.from(ids).toString(), input);
    }),
    { numRuns: 100 },
  );
});
