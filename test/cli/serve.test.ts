import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { run, type ServeDependencies, servedAs } from '../../src/cli/serve.js';
import type { RefusedModel } from '../../src/models/description.js';
import { describeSpanModel } from '../fake-span.js';
import { ByteTokenizer, describeModel, FakeEngine } from '../fakes.js';

interface Outcome {
  readonly code: number;
  readonly stderr: string;
  readonly stdout: string;
}

function world(engine: FakeEngine, changes: Partial<ServeDependencies> = {}): ServeDependencies {
  return {
    env: {},
    loadModels: async () => ({ models: [...engine.models()], refused: [] as RefusedModel[] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
    onHangup: () => () => {},
    ...changes,
  };
}

async function serve(argv: string[], dependencies: ServeDependencies, stop: AbortSignal): Promise<Outcome> {
  const io = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() };
  const code = await run(argv, io, stop, dependencies);
  io.stdout.end();
  io.stderr.end();
  return { code, stdout: await text(io.stdout), stderr: await text(io.stderr) };
}

/** A port that was free a moment ago: the server's own choice can't be read from outside. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Asks until the server listens; each attempt is an event of the network, none a pause. */
async function whenUp(url: string): Promise<void> {
  for (;;) {
    try {
      await fetch(`${url}/health/live`);
      return;
    } catch {
      await new Promise(setImmediate);
    }
  }
}

test('stop: what is in is finished, what is new gets 503, and the command returns 0', async () => {
  const engine = new FakeEngine();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const stop = new AbortController();
  const argv = ['--port', String(port), '--log-level', 'silent', '--drain-ms-max', '5000'];
  const served = serve(argv, world(engine), stop.signal);
  await whenUp(url);
  const score = (): Promise<Response> =>
    fetch(`${url}/v1/score`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"input":"a"}',
    });
  engine.shutGate();
  const inWork = score();
  await engine.arrived(1);
  stop.abort();
  await new Promise(setImmediate);
  const refused = await score();
  assert.equal(refused.status, 503);
  const ready = await fetch(`${url}/health/ready`);
  assert.equal(ready.status, 503);
  engine.openGate();
  assert.equal((await inWork).status, 200);
  assert.deepEqual(await served, { code: 0, stdout: '', stderr: '' });
  assert.equal(engine.state, 'draining', 'the engine was told to stop');
});

test('stop: a request that never ends is not waited for longer than the drain time', async () => {
  const engine = new FakeEngine();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const stop = new AbortController();
  const argv = ['--port', String(port), '--log-level', 'silent', '--drain-ms-max', '100'];
  const served = serve(argv, world(engine), stop.signal);
  await whenUp(url);
  engine.shutGate();
  const lost = fetch(`${url}/v1/score`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"input":"a"}',
  }).catch((error: unknown) => error);
  await engine.arrived(1);
  stop.abort();
  assert.equal((await served).code, 0);
  assert.ok((await lost) instanceof Error);
});

test('a port in use: one line that says what to do', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const argv = ['--port', String(port), '--log-level', 'silent'];
  const { code, stderr } = await serve(argv, world(new FakeEngine()), new AbortController().signal);
  other.close();
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^ponder-serve serve: port \d+ of 127\.0\.0\.1 is in use: stop the other server, or choose another --port\n$/,
  );
});

test('what keeps the server from starting is one line with the remedy', async () => {
  const engine = new FakeEngine();
  const never = new AbortController().signal;
  const refused = [{ id: 'bad', reason: 'weights.bin: wrong hash' }];
  const cases: [string[], Partial<ServeDependencies>, number, RegExp][] = [
    [['--prot', '1'], {}, 2, /unknown option --prot: did you mean --port\?/],
    [[], { env: { PONDER_THREADS: 'many' } }, 2, /PONDER_THREADS must be an integer from 1 to 1024/],
    [
      [],
      { loadModels: async () => ({ models: [], refused }) },
      1,
      /no model to serve in .*bad: weights.bin: wrong hash/,
    ],
    [[], { startEngine: () => Promise.reject(new Error('the engine cannot start')) }, 1, /the engine cannot start/],
    [
      ['--batch-rows-max', '8'],
      {},
      2,
      /batchRowsMax \(8\) is below the context of fake \(17\): raise --batch-rows-max/,
    ],
    [['--host', '192.0.2.1'], {}, 1, /192\.0\.2\.1 is no address of this machine/],
  ];
  for (const [argv, changes, code, says] of cases) {
    const outcome = await serve(['--log-level=silent', '--port=0', ...argv], world(engine, changes), never);
    assert.equal(outcome.code, code, outcome.stderr);
    assert.match(outcome.stderr.split('\n')[0] ?? '', says);
  }
});

test('a package whose tokenizer is broken is refused by name, and the others serve', async () => {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const stop = new AbortController();
  const [good, bad] = [describeModel({ id: 'good' }), describeModel({ id: 'bad', folder: '/nowhere/bad' })];
  const engine = new FakeEngine([good]);
  const served = serve(
    ['--port', String(port), '--log-level', 'silent'],
    world(engine, {
      loadModels: async () => ({ models: [good, bad], refused: [] }),
      loadTokenizer: async (folder) => {
        if (folder === bad.folder) throw new Error('tokenizer.json: not BPE');
        return new ByteTokenizer();
      },
      startEngine: async (_config, models) => {
        assert.deepEqual(models, [good]);
        return engine;
      },
    }),
    stop.signal,
  );
  await whenUp(url);
  const info = (await (await fetch(`${url}/v1/info`)).json()) as { models: string[]; refused_models: RefusedModel[] };
  assert.deepEqual(info.models, ['good']);
  assert.deepEqual(info.refused_models, [{ id: 'bad', reason: 'tokenizer.json: not BPE' }]);
  stop.abort();
  assert.equal((await served).code, 0);
});

test('the log at start tells of each model what adapts', () => {
  assert.equal(servedAs(describeModel()), 'fake (int8, up to 8 steps)');
  assert.match(servedAs(describeSpanModel({ id: 'span' })), /^span \(\w+, spans up to 64 keys\)$/);
});

test('--help lists the options and starts nothing', async () => {
  const { code, stdout } = await serve(['--help'], world(new FakeEngine()), new AbortController().signal);
  assert.equal(code, 0);
  assert.match(stdout, /--batch-rows-max {2}\(PONDER_BATCH_ROWS_MAX\)/);
});
