/** Keys and certificate of a running server: read at the start, again at SIGHUP, and loud when neither is there. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { run } from '../../src/cli/serve.js';
import { isLoopback } from '../../src/cli/serve-secrets.js';
import { ByteTokenizer, FakeEngine } from '../fakes.js';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function folder(t: TestContext): string {
  const made = mkdtempSync(join(tmpdir(), 'ponder-secrets-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** A server over fakes; `log` is what it has logged when it has stopped. */
async function serving(argv: string[], env: Record<string, string> = {}) {
  const engine = new FakeEngine();
  const stop = new AbortController();
  const port = await freePort();
  let hangup = (): void => {};
  const io = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
  const code = run(['--port', String(port), ...argv], io, stop.signal, {
    env,
    loadModels: async () => ({ models: [...engine.models()], refused: [] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
    onHangup: (listener) => {
      hangup = listener;
      return () => {};
    },
  });
  const end = async (): Promise<{ code: number; stderr: string }> => {
    stop.abort();
    const ended = await code;
    io.stderr.end();
    return { code: ended, stderr: await text(io.stderr) };
  };
  return { port, url: `http://127.0.0.1:${port}`, hangup: () => hangup(), code, end };
}

const statusOf = async (url: string, key: string): Promise<number> => {
  for (;;) {
    try {
      return (await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
    } catch {
      await new Promise(setImmediate); // it does not listen yet
    }
  }
};

const KEY_A = 'the-first-of-two-keys';
const KEY_B = 'the-second-of-two-keys';
const fileOf = (key: string) => JSON.stringify([{ name: 'client', key }]);

test('keys from a file, changed at SIGHUP; a file that is broken changes nothing', async (t) => {
  const file = join(folder(t), 'keys.json');
  writeFileSync(file, fileOf(KEY_A));
  const server = await serving(['--api-keys-file', file]);
  assert.deepEqual([await statusOf(server.url, KEY_A), await statusOf(server.url, KEY_B)], [200, 401]);

  writeFileSync(file, fileOf(KEY_B));
  assert.equal(await statusOf(server.url, KEY_B), 401);
  server.hangup();
  while ((await statusOf(server.url, KEY_B)) !== 200);
  assert.equal(await statusOf(server.url, KEY_A), 401);

  for (const broken of ['{', '[]']) {
    writeFileSync(file, broken);
    server.hangup();
    for (let i = 0; i < 20; i++) assert.equal(await statusOf(server.url, KEY_B), 200);
  }
  assert.equal((await server.end()).code, 0);
});

test('keys from the variable; it is no option and shows nowhere', async () => {
  const server = await serving([], { PONDER_API_KEYS: fileOf(KEY_A) });
  assert.deepEqual([await statusOf(server.url, KEY_A), await statusOf(server.url, '')], [200, 401]);
  const info = await fetch(`${server.url}/v1/info`, { headers: { authorization: `Bearer ${KEY_A}` } });
  assert.ok(!(await info.text()).includes(KEY_A));
  await server.end();
});

test('keys that can’t be read stop the start with one line', async () => {
  for (const [argv, env, says] of [
    [
      ['--api-keys-file', '/nowhere/keys.json'],
      {},
      /cannot read \/nowhere\/keys\.json \(ENOENT\): set --api-keys-file/,
    ],
    [[], { PONDER_API_KEYS: 'secret' }, /PONDER_API_KEYS: is not JSON/],
    [['--tls-cert-file', '/a.pem'], {}, /needs both --tls-cert-file and --tls-key-file/],
    [['--tls-cert-file', '/a.pem', '--tls-key-file', '/b.pem'], {}, /cannot read \/a\.pem \(ENOENT\)/],
  ] as const) {
    const server = await serving([...argv], { ...env });
    const { code, stderr } = await server.end();
    assert.equal(code, 2);
    assert.match(stderr, says);
    assert.ok(!stderr.includes('secret'));
  }
});

test('which addresses only this machine reaches', () => {
  for (const host of ['127.0.0.1', '127.1.2.3', 'localhost', '::1']) assert.ok(isLoopback(host), host);
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'example.org', '127.0.0.1.example.org']) {
    assert.ok(!isLoopback(host), host);
  }
});

function makeCertificate(at: string, name: string): { cert: string; key: string } | null {
  const [cert, key] = [join(at, `${name}.pem`), join(at, `${name}.key`)];
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=DNS:localhost'];
  try {
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
        ...subject,
      ].concat(['-out', cert, '-keyout', key]),
      { stdio: 'ignore' },
    );
    return { cert, key };
  } catch {
    return null;
  }
}

/** Name in the certificate that the server shows. */
function certificateAt(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path: '/health/live', rejectUnauthorized: false, agent: false };
    request(options, (reply) => {
      const { subject } = (reply.socket as import('node:tls').TLSSocket).getPeerCertificate();
      reply.resume().on('end', () => resolve(`${reply.statusCode} ${subject.CN}`));
    })
      .on('error', reject)
      .end();
  });
}

async function whenCertificateIs(port: number, wanted: string): Promise<void> {
  for (;;) {
    const found = await certificateAt(port).catch(() => null);
    if (found === wanted) return;
    await new Promise(setImmediate);
  }
}

test('HTTPS by files, with the certificate of today after SIGHUP', async (t) => {
  const at = folder(t);
  const [first, second] = [makeCertificate(at, 'first'), makeCertificate(at, 'second')];
  if (first === null || second === null) return t.skip('no openssl to make a certificate with');
  const [cert, key] = [join(at, 'cert'), join(at, 'key')];
  const use = (files: { cert: string; key: string }): void => {
    execFileSync('cp', [files.cert, cert]);
    execFileSync('cp', [files.key, key]);
  };
  use(first);
  const server = await serving(['--tls-cert-file', cert, '--tls-key-file', key]);
  await whenCertificateIs(server.port, '200 first');
  use(second);
  server.hangup();
  await whenCertificateIs(server.port, '200 second');
  writeFileSync(cert, 'broken');
  server.hangup();
  for (let i = 0; i < 5; i++) assert.equal(await certificateAt(server.port), '200 second');
  assert.equal((await server.end()).code, 0);
});
