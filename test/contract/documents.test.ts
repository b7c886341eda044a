import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { ERRORS, type ErrorCode, errorBody, ServerError } from '../../src/errors.js';
import { LibreTranslateReply } from '../../src/http/libretranslate-schemas.js';
import { notedRoutes } from '../../src/http/route-notes.js';
import { ErrorReply, ScoreBody, ScoreReply } from '../../src/http/schemas.js';
import { SpanScoreReply } from '../../src/http/span-schemas.js';
import { TranslateBody, TranslateReply } from '../../src/http/translate-schemas.js';
import { describeSpanModel } from '../fake-span.js';
import { describeModel, describeTranslator, FakeEngine, fakeServer } from '../fakes.js';
import { makeTables, type OpenApi, README, tableIn } from './documents.js';

const REPLIES: Readonly<Record<string, TSchema>> = {
  '/v1/score': Type.Union([ScoreReply, SpanScoreReply]),
  '/v1/translate': TranslateReply,
  '/translate': LibreTranslateReply,
};

test("README's tables are those of the code; node dist/test/contract/update-readme.js writes them", async () => {
  const readme = readFileSync(README, 'utf8');
  for (const [name, content] of Object.entries(await makeTables())) {
    assert.equal(tableIn(readme, name), content, `table ${name}`);
  }
});

test("README's curls are requests that are answered", async (t) => {
  const models = [
    describeModel({ id: 'ut-lm-en' }),
    describeTranslator({ id: 'ut-mt-ende' }),
    describeSpanModel({ id: 'span-lm-bytes' }),
  ];
  const { app } = await fakeServer([], { engine: new FakeEngine(models) });
  t.after(() => app.close());
  const curls = [...readFileSync(README, 'utf8').matchAll(/curl [^\n]*:8080(\/\S*)[^\n]*\\?\n?[^\n]*-d '([^']+)'/g)];
  for (const path of ['/v1/score', '/v1/translate', '/translate']) {
    assert.ok(
      curls.some(([, url]) => url === path),
      `README shows a curl of ${path}`,
    );
  }
  for (const [, url = '', payload = ''] of curls) {
    const headers = { 'content-type': 'application/json' };
    const reply = await app.inject({ method: 'POST', url, headers, payload });
    assert.equal(reply.statusCode, 200, reply.body);
  }
});

test('every request that OpenAPI documents is executed, and its reply is as documented', async (t) => {
  // A package to unload and load again.
  const models = mkdtempSync(join(tmpdir(), 'ponder-models-'));
  mkdirSync(join(models, 'fake'));
  writeFileSync(join(models, 'fake', 'manifest.json'), '{}');
  const { app } = await fakeServer(['--models', models]);
  t.after(() => app.close());
  t.after(() => rmSync(models, { recursive: true }));
  const { paths } = (await app.inject('/openapi.json')).json<OpenApi>();
  let executed = 0;
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { requestBody }] of Object.entries(methods)) {
      const examples = Object.values(requestBody?.content['application/json']?.examples ?? {});
      const url = path.replace('{id}', 'fake').replace('{key}', 'draft');
      for (const payload of requestBody === undefined ? [undefined] : examples.map(({ value }) => value)) {
        const reply = await app.inject({
          method: method.toUpperCase() as 'GET' | 'POST',
          url,
          ...(payload === undefined ? {} : { payload: payload as object }),
        });
        assert.equal(reply.statusCode, 200, `${method} ${url}: ${reply.body}`);
        const schema = REPLIES[url];
        if (String(reply.headers['content-type']).startsWith('text/event-stream')) {
          assert.match(reply.body, /\n\ndata: \[DONE\]\n\n$/);
        } else if (schema !== undefined) {
          assert.ok(Value.Check(schema, reply.json()), reply.body);
        }
        executed++;
      }
      if (requestBody !== undefined) assert.ok(examples.length > 0, `${path} has examples`);
    }
  }
  assert.ok(executed >= 24, `${executed} requests`);
});

test('every route has a note and a command in /docs, and every note has its route', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  const { paths } = (await app.inject('/openapi.json')).json<OpenApi>();
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { description }]) => {
      const name = `${method.toUpperCase()} ${path}`;
      assert.match(description ?? '', /[.)]\n\n```sh\ncurl -s/, `${name}: add a note to http/route-notes.ts`);
      return name;
    }),
  );
  for (const noted of notedRoutes()) assert.ok(routes.includes(noted), `${noted} is no route`);
});

test('client generators: a name of its own for every operation, and every reply and body that there is', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  const { paths } = (await app.inject('/openapi.json')).json<OpenApi>();
  const ids = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { operationId, responses = {} }]) => {
      assert.match(operationId ?? '', /^[a-z][A-Za-z]+$/, `${method} ${path}`);
      assert.ok('200' in responses, `${method} ${path} tells of no success`);
      if (path.includes('{'))
        assert.ok('4XX' in responses || '404' in responses, `${method} ${path} tells of no error`);
      return operationId;
    }),
  );
  assert.equal(new Set(ids).size, ids.length);
  const names = (path: string, place: string) =>
    (paths[path]?.post?.parameters ?? []).filter((one) => one.in === place).map(({ name }) => name);
  assert.ok(['q', 'source', 'target'].every((name) => names('/translate', 'query').includes(name)));
  assert.deepEqual(names('/v2/models/{id}/infer', 'header'), ['inference-header-content-length']);
  assert.ok('application/octet-stream' in (paths['/v2/models/{id}/infer']?.post?.requestBody?.content ?? {}));
});

test('commands go where the reader came from, and never to what is no host', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  for (const url of ['/openapi.json', '/docs/json']) {
    for (const host of ['gpu7.example:9000', '[::1]:80', 'a']) {
      const { body } = await app.inject({ url, headers: { host } });
      assert.ok(body.includes(`curl -s http://${host}/v1/models`), `${url} for ${host}`);
    }
    for (const host of ['x;rm -rf ~', 'a/b', '$(id)', "a'b", 'a:999999', '-x', 'a'.repeat(256)]) {
      const { body } = await app.inject({ url, headers: { host } });
      assert.ok(body.includes('curl -s http://127.0.0.1:8080/v1/models'), `${url} for ${host}`);
    }
  }
});

test('every field of a request says what it is', () => {
  for (const [field, schema] of Object.entries({ ...ScoreBody.properties, ...TranslateBody.properties })) {
    assert.ok('description' in schema && schema.description, field);
  }
});

test('every error has the documented shape and a status that fits its code', () => {
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    const { status, retryable, retryAfterSeconds } = ERRORS[code];
    const error = new ServerError(code, 'what to do', 'input');
    assert.ok(Value.Check(ErrorReply, errorBody(error)), code);
    assert.equal(error.retryAfterSeconds, retryAfterSeconds);
    assert.equal(retryAfterSeconds !== null, status === 429 || status === 503, `${code}: Retry-After`);
    assert.ok(status >= 400 && status < 600);
    if (retryAfterSeconds !== null) assert.ok(retryable, code);
  }
});
