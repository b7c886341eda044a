/** Models that come and go over HTTP, while requests are in work. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { ModelWatcher } from '../../src/cli/serve-watch.js';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { parseKeys } from '../../src/http/api-keys.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { ModelRepository } from '../../src/http/model-repository.js';
import { describeModel, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

/** A models folder with a package of each name, as far as the fakes look. */
function folderOf(t: TestContext, ...names: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-models-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of names) addPackage(folder, name, '{}');
  return folder;
}

function addPackage(folder: string, name: string, manifest: string): void {
  mkdirSync(join(folder, name), { recursive: true });
  writeFileSync(join(folder, name, 'manifest.json'), manifest);
}

async function serverOver(t: TestContext, argv: string[] = []): Promise<FakeServer> {
  const server = await fakeServer(['--models', folderOf(t, 'fake', 'fake-mt', 'other'), ...argv]);
  t.after(() => server.app.close());
  return server;
}

const change = (server: FakeServer, verb: 'load' | 'unload', id: string, headers = {}, payload = '') =>
  server.app.inject({ method: 'POST', url: `/v2/repository/models/${id}/${verb}`, headers, payload });
const index = async (server: FakeServer, payload = '') =>
  (await server.app.inject({ method: 'POST', url: '/v2/repository/index', payload })).json();
const score = (server: FakeServer, model = 'fake') =>
  server.app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'ab', model } });

test('index: what is served, and what else lies in the folder', async (t) => {
  const server = await serverOver(t);
  assert.deepEqual(await index(server), [
    { name: 'fake', state: 'READY', reason: '', version: '1' },
    { name: 'fake-mt', state: 'READY', reason: '', version: '1' },
    { name: 'other', state: 'UNAVAILABLE', reason: 'not loaded', version: '1' },
    { name: 'span-lm-bytes', state: 'READY', reason: '', version: '1' },
  ]);
  assert.equal((await index(server, '{"ready":true}')).length, 3);
});

test('unload and load: refused from then on, served from then on, at every interface', async (t) => {
  const server = await serverOver(t);
  assert.equal((await change(server, 'unload', 'fake')).statusCode, 200);
  for (const reply of [
    await score(server),
    await server.app.inject('/v2/models/fake/ready'),
    await server.app.inject('/v1/models/fake'),
    await change(server, 'unload', 'fake'),
  ]) {
    assert.equal(reply.statusCode, 404, reply.body);
  }
  assert.equal((await change(server, 'load', 'fake')).statusCode, 200);
  assert.equal((await score(server)).statusCode, 200);
  // One that is served already stays as it is.
  assert.equal((await change(server, 'load', 'fake')).statusCode, 200);
  assert.equal(server.engine.models().filter(({ id }) => id === 'fake').length, 1);
});

test('unload waits for what is in, refuses what is new, and nothing is lost', async (t) => {
  const server = await serverOver(t);
  server.engine.shutGate();
  const inWork = score(server);
  await server.engine.arrived(1);
  let unloaded = false;
  const unloading = change(server, 'unload', 'fake').then((reply) => {
    unloaded = true;
    return reply;
  });
  while ((await score(server)).statusCode !== 404);
  assert.equal(unloaded, false);
  server.engine.openGate();
  assert.equal((await inWork).statusCode, 200);
  assert.equal((await unloading).statusCode, 200);
});

test('what can’t be loaded says why, and is in the index with the reason', async (t) => {
  const server = await serverOver(t);
  const missing = await change(server, 'load', 'nowhere');
  assert.equal(missing.statusCode, 404);
  assert.match(missing.json().error, /no package 'nowhere' in the models folder/);
  // A name that leads out of the folder is no name.
  assert.equal((await change(server, 'load', '..%2Ffake')).statusCode, 404);
  await change(server, 'unload', 'fake');
  server.engine.failWith(new Error('step.onnx is broken'));
  const broken = await change(server, 'load', 'fake');
  assert.equal(broken.statusCode, 400);
  assert.match(broken.json().error, /'fake' can't be served: step\.onnx is broken/);
  assert.equal((await index(server))[0].reason, 'step.onnx is broken');
  server.engine.failWith(null);
  assert.equal((await change(server, 'load', 'fake')).statusCode, 200);
  assert.equal((await index(server))[0].state, 'READY');
});

test('bad bodies: no JSON, a list, a configuration of Triton’s', async (t) => {
  const server = await serverOver(t);
  for (const [payload, says] of [
    ['{', /not valid JSON/],
    ['[]', /JSON object/],
    ['{"parameters":{"config":"{}"}}', /'config' is not supported/],
  ] as const) {
    const reply = await change(server, 'load', 'fake', {}, payload);
    assert.equal(reply.statusCode, 400);
    assert.match(reply.json().error, says);
  }
  assert.equal(
    (await change(server, 'unload', 'fake', {}, '{"parameters":{"unload_dependents":false}}')).statusCode,
    200,
  );
});

test('who may: nobody with --model-control none, only admins where keys are needed, no page of another origin', async (t) => {
  const fixed = await serverOver(t, ['--model-control', 'none']);
  assert.equal((await change(fixed, 'unload', 'fake')).statusCode, 403);
  assert.equal((await index(fixed)).length, 4);

  const server = await serverOver(t);
  const page = { origin: 'https://evil.example', host: 'localhost:8080' };
  const refused = await change(server, 'unload', 'fake', page);
  assert.equal(refused.statusCode, 403);
  assert.match(refused.json().error, /other origins/);
  assert.equal((await change(server, 'unload', 'fake', { ...page, origin: 'http://localhost:8080' })).statusCode, 200);

  const config = parseConfig([], {});
  const [admin, user] = ['the-key-of-an-admin-123', 'the-key-of-a-user-12345'];
  const entries = [
    { name: 'admin', key: admin, admin: true },
    { name: 'user', key: user },
  ];
  const keys = new KeyRing(parseKeys(JSON.stringify(entries), 'keys'), config, { monotonicMs, unixMs: Date.now });
  const keyed = await fakeServer(['--models', folderOf(t, 'fake')], { keys });
  t.after(() => keyed.app.close());
  const as = (key: string) => ({ authorization: `Bearer ${key}` });
  assert.equal((await change(keyed, 'unload', 'fake')).statusCode, 401);
  assert.equal((await change(keyed, 'unload', 'fake', as(user))).statusCode, 403);
  assert.equal((await change(keyed, 'unload', 'fake', as(admin))).statusCode, 200);
});

test('watching the folder: a package is served once it has stopped changing, and not when it is gone', async (t) => {
  const folder = folderOf(t, 'a');
  const config = parseConfig(['--models', folder], {});
  const engine = new FakeEngine([]);
  const attempts: string[] = [];
  const repository = new ModelRepository({
    config,
    engine,
    admission: { whenPresentLeft: async () => {} },
    tokenizers: new Map(),
    loadModels: async ({ only }) => {
      const id = only?.[0] ?? '';
      attempts.push(id);
      if (id === 'broken') return { models: [], refused: [{ id, reason: 'wrong hash' }] };
      return { models: [describeModel({ id })], refused: [] };
    },
    loadTokenizer: async () => null as never,
  });
  const watcher = new ModelWatcher(config, repository, { info() {}, warn() {} });
  const served = () => engine.models().map(({ id }) => id);

  await watcher.look();
  assert.deepEqual(served(), [], 'seen for the first time');
  await watcher.look();
  assert.deepEqual(served(), ['a']);
  addPackage(folder, 'broken', '{');
  for (let i = 0; i < 4; i++) await watcher.look();
  assert.deepEqual(attempts, ['a', 'broken'], 'what was refused is tried again only when it has changed');
  addPackage(folder, 'broken', '{ }');
  await watcher.look();
  await watcher.look();
  assert.deepEqual(attempts, ['a', 'broken', 'broken']);
  rmSync(join(folder, 'a'), { recursive: true });
  await watcher.look();
  assert.deepEqual(served(), []);
});
