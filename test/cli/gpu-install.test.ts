/** The provider's way from a registry to its folder: a registry of ours serves a package of ours, whole, corrupted, or not at all. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { create } from 'tar';
import { type InstallWorld, run } from '../../src/cli/gpu-install.js';
import { NEEDED_LIBRARIES, onnxruntimeVersion, PROVIDER_PACKAGE } from '../../src/runtime/cuda-provider.js';
import { recordedIo } from './streams.js';

const NAME = 'a-provider';
const VERSION = '1.2.3';
const FROM = 'package/lib';
const FILES = { 'libshared.so': 'the shared one', 'libcuda-provider.so': 'the provider' } as const;
const NEVER = new AbortController().signal;

const digest = (algorithm: string, data: string | Buffer, encoding: 'hex' | 'base64') =>
  createHash(algorithm).update(data).digest(encoding);

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-gpu-install-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A tarball as npm's. */
function pack(folder: string, files: Readonly<Record<string, string>> = FILES): Buffer {
  mkdirSync(join(folder, FROM), { recursive: true });
  writeFileSync(join(folder, 'package/package.json'), JSON.stringify({ name: NAME, version: VERSION }));
  for (const [name, text] of Object.entries({ ...files, 'unwanted.so': 'more' }))
    writeFileSync(join(folder, FROM, name), text);
  create({ gzip: true, sync: true, file: join(folder, 'made.tgz'), cwd: folder }, ['package']);
  return readFileSync(join(folder, 'made.tgz'));
}

/** npm asks this registry; `tarball` null: it knows no such package. It vouches for whatever it serves, as one that was broken into would. */
async function registry(t: TestContext, folder: string, tarball: Buffer | null): Promise<void> {
  const server = createServer(({ url = '' }, reply) => {
    if (tarball === null) reply.writeHead(404).end('{}');
    else if (url.endsWith('.tgz')) reply.end(tarball);
    else {
      const dist = { tarball: `${here}/${NAME}.tgz`, integrity: `sha512-${digest('sha512', tarball, 'base64')}` };
      const versions = { [VERSION]: { name: NAME, version: VERSION, dist } };
      reply.setHeader('content-type', 'application/json');
      reply.end(JSON.stringify({ name: NAME, 'dist-tags': { latest: VERSION }, versions }));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const here = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const settings = {
    npm_config_registry: here,
    npm_config_cache: join(folder, 'cache'),
    npm_config_fetch_retries: '0',
  };
  const before = Object.keys(settings).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, settings);
  t.after(() => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    server.close();
    server.closeAllConnections();
  });
}

interface Scene {
  readonly world: InstallWorld;
  readonly folder: string;
  readonly target: string;
  readonly tarball: Buffer;
}

/** A machine with every library, and a provider that is pinned as `tarball`. */
function scene(t: TestContext, changes: Partial<InstallWorld> = {}): Scene {
  const folder = folderOf(t);
  const target = join(folder, 'target');
  mkdirSync(target);
  const tarball = pack(folder);
  const files = Object.entries(FILES).map(([name, text]) => ({
    name,
    from: FROM,
    sha256: digest('sha256', text, 'hex'),
  }));
  const integrity = `sha512-${digest('sha512', tarball, 'base64')}`;
  const world: InstallWorld = {
    platform: 'linux x64',
    provider: { name: NAME, version: VERSION, integrity, onnxruntime: '1.29.0', files },
    folder: () => target,
    onnxruntimeVersion: async () => '1.29.0',
    operators: join(folder, 'operators.so'),
    canLoad: () => true,
    ...changes,
  };
  return { world, folder, target, tarball };
}

async function install(world: InstallWorld, ...argv: string[]) {
  const io = recordedIo();
  const code = await run(argv, io, NEVER, world);
  return { code, out: io.stdout.text, err: io.stderr.text };
}

test('fetched from the registry that npm is set to, verified, and put in place; then it is there already', async (t) => {
  const { world, folder, target, tarball } = scene(t);
  await registry(t, folder, tarball);
  const first = await install(world);
  assert.deepEqual([first.code, first.err], [0, '']);
  assert.match(first.out, /^CUDA provider: installed: /);
  assert.match(first.out, /Nothing is missing/);
  assert.deepEqual(readdirSync(target).sort(), Object.keys(FILES).sort(), 'nothing else is left');
  for (const [name, text] of Object.entries(FILES)) assert.equal(readFileSync(join(target, name), 'utf8'), text);
  assert.equal((await install(world, '--check')).code, 0);
  // A registry that knows nothing is not asked again.
  await registry(t, folder, null);
  assert.match((await install(world)).out, /^CUDA provider: is there already: /);
});

test('a file that was changed is seen, and replaced', async (t) => {
  const { world, folder, target } = scene(t);
  const from = ['--from', join(folder, 'made.tgz')];
  assert.equal((await install(world, ...from)).code, 0);
  writeFileSync(join(target, 'libshared.so'), 'something else');
  const checked = await install(world, '--check');
  assert.equal(checked.code, 1);
  assert.match(checked.out, /missing or changed: libshared\.so; run npm run gpu:install/);
  assert.equal((await install(world, ...from)).code, 0);
  assert.equal(readFileSync(join(target, 'libshared.so'), 'utf8'), FILES['libshared.so']);
});

test('a registry that serves something else under the name: nothing is installed', async (t) => {
  const { world, folder, target } = scene(t);
  await registry(t, folder, pack(folder, { ...FILES, 'libcuda-provider.so': 'something evil' }));
  const { code, err } = await install(world);
  assert.equal(code, 1);
  assert.match(err, /is not a-provider@1\.2\.3: its digest is sha512-.*Nothing was installed/);
  assert.deepEqual(readdirSync(target), []);
});

test('a tarball that broke off: nothing is installed', async (t) => {
  const { world, folder, target, tarball } = scene(t);
  const file = join(folder, 'broken.tgz');
  writeFileSync(file, tarball.subarray(0, tarball.length - 10));
  const { code, err } = await install(world, '--from', file);
  assert.equal(code, 1);
  assert.match(err, /its digest is/);
  assert.deepEqual(readdirSync(target), []);
});

test('no such package, no network, no file: one line that says what to do', async (t) => {
  const { world, folder } = scene(t);
  await registry(t, folder, null);
  const unknown = await install(world);
  assert.equal(unknown.code, 1);
  assert.match(unknown.err, /^ponder-serve gpu-install: can't fetch a-provider@1\.2\.3: .*404.*--from FILE\n$/);
  process.env.npm_config_registry = 'http://127.0.0.1:9';
  const offline = await install(world);
  assert.equal(offline.code, 1);
  assert.match(offline.err, /can't fetch a-provider@1\.2\.3: .*ECONNREFUSED.*--from FILE\n$/);
  assert.match((await install(world, '--from', join(folder, 'nothing.tgz'))).err, /can't read .*nothing\.tgz: ENOENT/);
});

test('native operators that were built are taken along, again when they were built anew', async (t) => {
  const { world, folder, target } = scene(t);
  const from = ['--from', join(folder, 'made.tgz')];
  assert.match((await install(world, ...from)).out, /native operators: not built.*sh export\/cuda\/build\.sh/);
  for (const built of ['first', 'second']) {
    writeFileSync(world.operators, built);
    assert.match((await install(world)).out, /native operators: installed/);
    assert.equal(readFileSync(join(target, 'libponder_adaptive.so'), 'utf8'), built);
  }
  assert.match((await install(world)).out, /native operators: are there already/);
});

test('each library that the machine lacks is told with its remedy; installing succeeds without, checking fails', async (t) => {
  for (const { file, remedy, optional = false } of NEEDED_LIBRARIES) {
    const { world, folder } = scene(t, { canLoad: (asked) => asked !== file });
    const { code, out } = await install(world, '--from', join(folder, 'made.tgz'));
    assert.equal(code, 0, 'an image is built where there is no driver');
    assert.ok(out.includes(`(${file}): ${optional ? 'not found' : 'missing'}: ${remedy}`), out);
    assert.match(out, optional ? /Nothing is missing/ : /1 missing: until then the CPU serves/);
    assert.equal((await install(world, '--check')).code, optional ? 0 : 1);
  }
});

test('another platform, another release of ONNX Runtime, a stray argument: refused before anything is fetched', async (t) => {
  const mac = await install(scene(t, { platform: 'darwin arm64' }).world);
  assert.match(mac.err, /the CUDA provider is for linux x64, and this is darwin arm64: serve by the CPU/);
  const newer = await install(scene(t, { onnxruntimeVersion: async () => '1.30.0' }).world);
  assert.match(newer.err, /is for onnxruntime-node 1\.29\.0, and 1\.30\.0 is installed: run npm ci/);
  assert.equal((await install(scene(t).world, 'now')).code, 2);
});

test('the package that is pinned belongs to the ONNX Runtime that is installed', async () => {
  assert.equal(PROVIDER_PACKAGE.onnxruntime, await onnxruntimeVersion());
});
