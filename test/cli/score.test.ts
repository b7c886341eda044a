import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { run, type ScoreDependencies } from '../../src/cli/score.js';
import { ServerError } from '../../src/errors.js';
import type { ScoreReply } from '../../src/http/schemas.js';
import { describeSpanModel } from '../fake-span.js';
import { ByteTokenizer, describeModel, describeTranslator, FakeEngine } from '../fakes.js';
import { type RecordedIo, recordedIo } from './streams.js';

const NEVER = new AbortController().signal;

function fakeWorld(engine = new FakeEngine(), changes: Partial<ScoreDependencies> = {}): ScoreDependencies {
  return {
    env: {},
    loadModels: async () => ({ models: [describeModel()], refused: [] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
    ...changes,
  };
}

async function score(
  argv: string[],
  options: { stdin?: string | Buffer; world?: ScoreDependencies; isTTY?: boolean; stop?: AbortSignal } = {},
): Promise<{ code: number; io: RecordedIo }> {
  const io = recordedIo(options);
  return { code: await run(argv, io, options.stop ?? NEVER, options.world ?? fakeWorld()), io };
}

function fileWith(t: TestContext, content: string | Buffer): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-score-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'text.txt');
  writeFileSync(file, content);
  return file;
}

test('--json is the reply of POST /v1/score', async () => {
  const { code, io } = await score(['-', '--json'], { stdin: 'a text' });
  assert.equal(code, 0);
  assert.equal(io.stderr.text, '');
  const reply = JSON.parse(io.stdout.text) as ScoreReply;
  assert.deepEqual(Object.keys(reply), ['model', 'results', 'usage', 'timing']);
  assert.equal(reply.results[0]?.tokens?.length, 6);
  assert.equal(reply.usage.tokens, 6);
});

test('a long text gives the same sums whatever it is cut into on its way to the engine', async () => {
  const engine = new FakeEngine();
  const { io } = await score(['-', '--json', '--stride', '16'], {
    stdin: 'x'.repeat(50_000),
    world: fakeWorld(engine),
  });
  const reply = JSON.parse(io.stdout.text) as ScoreReply;
  assert.equal(reply.results[0]?.tokens?.length, 50_000);
  assert.equal(reply.results[0]?.windows, 3125);
  assert.ok(engine.requests.length > 10);
  assert.equal(engine.state, 'draining', 'the engine is stopped at the end');
});

test('--lines scores each line by itself, skips empty ones and keeps their numbers', async (t) => {
  const file = fileWith(t, 'one\n\r\n\ntwo two\r\n');
  const json = await score([file, '--lines', '--json']);
  const reply = JSON.parse(json.io.stdout.text) as ScoreReply;
  assert.deepEqual(
    reply.results.map(({ index, bytes }) => [index, bytes]),
    [
      [0, 3],
      [3, 7],
    ],
  );
  const { io } = await score([file, '--lines']);
  assert.match(io.stdout.text, /line +tokens.*\n +1 +3 .* one\n +4 +7 .* two two\n/);
  assert.match(io.stdout.text, /texts +2 in 2 windows/);
});

test('the summary has the sums and the depths', async () => {
  const { io } = await score(['-'], { stdin: 'a text' });
  for (const line of [
    /^model +fake \(int8\)$/m,
    /^tokens +6 of 6 bytes$/m,
    /^bits per byte +\d\.\d{4}$/m,
    /^mean depth .* of 8 steps$/m,
  ]) {
    assert.match(io.stdout.text, line);
  }
  assert.match(io.stdout.text, /^steps {2}tokens$/m);
});

test('--heatmap prints the text in colours on a terminal, with depths elsewhere', async () => {
  const terminal = await score(['-', '--heatmap'], { stdin: 'ab', isTTY: true });
  assert.ok(terminal.io.stdout.text.includes('ma\x1b[0m\x1b[38;5;'));
  const pipe = await score(['-', '--heatmap'], { stdin: 'ab' });
  assert.match(pipe.io.stdout.text, /^a[₀-₉]b[₀-₉]$/m);
  assert.ok(!pipe.io.stdout.text.includes('\x1b'));
});

test('flags arrive as the budget', async () => {
  const engine = new FakeEngine();
  await score(['--max-steps=4', '--min-steps', '2', '--threshold', '.5', '-'], {
    stdin: 'a',
    world: fakeWorld(engine),
  });
  assert.deepEqual(engine.requests[0]?.budget, { maxSteps: 4, minSteps: 2, threshold: 0.5 });
});

test('--help prints the usage', async () => {
  const { code, io } = await score(['--help']);
  assert.equal(code, 0);
  assert.match(io.stdout.text, /^Usage: ponder-serve score FILE/);
});

for (const [argv, message] of [
  [[], /FILE is missing: give a path, or - for standard input/],
  [['a', 'b'], /one FILE at a time, not also b/],
  [['-', '--heatmp'], /unknown option --heatmp: did you mean --heatmap\?/],
  [['-', '--thread', '1'], /unknown option --thread: did you mean --threads\?/],
  [['-', '--json=1'], /--json takes no value/],
  [['-', '--json', '--heatmap'], /exclude each other/],
  [['-', '--max-steps'], /--max-steps needs a value/],
  [['--max-steps', '--model', 'ut-lm-en', 'x.txt'], /--max-steps needs a value/],
  [['-', '--threads', '--json'], /--threads needs a value/],
  [['-', '--max-steps', '0'], /--max-steps must be an integer of at least 1, not '0'/],
  [['-', '--max-steps', '9'], /--max-steps must be an integer from 1 to 8 \(the model's maximum\), not 9/],
  [['-', '--min-steps', '3', '--max-steps', '2'], /--min-steps must be an integer from 1 to 2 \(--max-steps\), not 3/],
  [['-', '--threshold', '1.5'], /--threshold must be a number above 0 and up to 1, not '1\.5'/],
  [['-', '--threshold', 'NaN'], /--threshold must be a number/],
  [['-', '--stride', '17'], /--stride must be an integer from 1 to 16/],
  [['-', '--precision', 'int4'], /--precision must be/],
] as [string[], RegExp][]) {
  test(`score ${argv.join(' ')}: a usage error, exit code 2`, async () => {
    const { code, io } = await score(argv, { stdin: 'a' });
    assert.equal(code, 2);
    assert.match(io.stderr.text, message);
    assert.match(io.stderr.text, /\nTry: ponder-serve score --help\n$/);
    assert.equal(io.stdout.text, '');
  });
}

for (const [what, stdin, message] of [
  ['an empty text', '', /: standard input is empty: there is nothing to score/],
  ['invalid UTF-8', Buffer.from([0x61, 0xff]), /standard input is not valid UTF-8: convert it first/],
  ['half a character', Buffer.from('🙂').subarray(0, 3), /not valid UTF-8/],
] as const) {
  test(`${what}: one line with the remedy, exit code 1`, async () => {
    const { code, io } = await score(['-'], { stdin });
    assert.equal(code, 1);
    assert.match(io.stderr.text, message);
    assert.equal(io.stderr.text.split('\n').length, 2);
  });
}

test('a file that cannot be read is named', async (t) => {
  const folder = join(fileWith(t, ''), '..');
  for (const [file, error] of [
    ['/nowhere/x', 'ENOENT'],
    [folder, 'EISDIR'],
  ] as const) {
    const { code, io } = await score([file]);
    assert.equal(code, 1);
    assert.equal(io.stderr.text, `ponder-serve score: cannot read ${file} (${error}): check the path\n`);
  }
});

test('a file that is not there is told of before any model is asked for', async () => {
  const loadModels = () => assert.fail('no model is needed yet');
  const { code, io } = await score(['nope.txt'], { world: fakeWorld(undefined, { loadModels }) });
  assert.equal(code, 1);
  assert.equal(io.stderr.text, 'ponder-serve score: cannot read nope.txt (ENOENT): check the path\n');
});

test('without --model it is the one that the server would take: of those that score, the one without spans', async () => {
  const models = [describeSpanModel(), describeModel({ id: 'depth' }), describeTranslator({ id: 'mt' })];
  const load = async () => ({ models, refused: [] });
  const world = fakeWorld(new FakeEngine(models.slice(1, 2)), { loadModels: load });
  const { code, io } = await score(['-'], { stdin: 'a', world });
  assert.equal(code, 0, io.stderr.text);
  assert.match(io.stdout.text, /^model +depth /m);
  const translator = fakeWorld(undefined, { loadModels: async () => ({ models: models.slice(2), refused: [] }) });
  const named = await score(['-', '--model', 'mt'], { stdin: 'a', world: translator });
  assert.equal(named.code, 2);
  assert.match(named.io.stderr.text, /mt does not score text: choose another --model, or leave it out/);
});

test('models: none, refused, several, or one that the engine cannot start', async () => {
  const noModel = fakeWorld(undefined, { loadModels: async () => ({ models: [], refused: [] }) });
  assert.match(
    (await score(['-'], { stdin: 'a', world: noModel })).io.stderr.text,
    /no model package that scores text in .*: set --models/,
  );
  const refused = [{ id: 'bad', reason: 'weights.bin: is missing: re-export or restore it' }];
  const onlyRefused = fakeWorld(undefined, { loadModels: async () => ({ models: [], refused }) });
  const bad = await score(['-', '--model', 'bad'], { stdin: 'a', world: onlyRefused });
  assert.equal(bad.code, 1);
  assert.match(bad.io.stderr.text, /cannot use bad: weights\.bin: is missing/);
  const models = [describeModel({ id: 'a' }), describeModel({ id: 'b' })];
  const two = await score(['-'], {
    stdin: 'a',
    world: fakeWorld(undefined, { loadModels: async () => ({ models, refused: [] }) }),
  });
  assert.equal(two.code, 2);
  assert.match(two.io.stderr.text, /which model\? Choose one with --model: a, b/);
  const startEngine = () => Promise.reject(new Error("the engine can't start: no library"));
  const engineless = await score(['-'], { stdin: 'a', world: fakeWorld(undefined, { startEngine }) });
  assert.equal(engineless.code, 1);
  assert.equal(engineless.io.stderr.text, "ponder-serve score: the engine can't start: no library\n");
});

test('an engine that fails in the middle is one line, and is stopped', async () => {
  const engine = new FakeEngine();
  engine.failWith(new ServerError('ENGINE_LOST', 'the engine worker died'));
  const { code, io } = await score(['-'], { stdin: 'a', world: fakeWorld(engine) });
  assert.equal(code, 1);
  assert.equal(io.stderr.text, 'ponder-serve score: the engine worker died\n');
  assert.equal(engine.state, 'draining');
});

test('a reader that goes away ends the command quietly', async () => {
  const io = recordedIo({ stdin: 'a' });
  io.stdout.destroy();
  assert.equal(await run(['-'], io, NEVER, fakeWorld()), 0);
  assert.equal(io.stderr.text, '');
});

test('asked to stop, it gives up what is in the engine and exits as a shell expects', async () => {
  const engine = new FakeEngine();
  engine.shutGate();
  const stop = new AbortController();
  const scoring = score(['-'], { stdin: 'a', world: fakeWorld(engine), stop: stop.signal });
  await engine.arrived(1);
  stop.abort();
  const { code, io } = await scoring;
  assert.equal(code, 130);
  assert.equal(io.stderr.text, 'ponder-serve score: stopped\n');
  assert.equal(engine.state, 'draining');
});
