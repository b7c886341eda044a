import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  createReadStream,
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { run, type TranslateWorld } from '../../src/cli/translate.js';
import { ByteTokenizer } from '../fakes.js';
import { MODEL, SpeakingEngine } from '../translate/speaking-engine.js';
import { type RecordedIo, recordedIo } from './streams.js';

const CHILD = fileURLToPath(new URL('./translate-child.js', import.meta.url));

function fakeWorld(engine = new SpeakingEngine()): TranslateWorld {
  return {
    env: {},
    loadModels: async () => ({ models: [MODEL], refused: [] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
  };
}

async function translate(
  argv: string[],
  options: { stdin?: string; engine?: SpeakingEngine; stop?: AbortSignal } = {},
): Promise<{ code: number; io: RecordedIo }> {
  const io = recordedIo(options);
  const stop = options.stop ?? new AbortController().signal;
  return { code: await run(argv, io, stop, fakeWorld(options.engine)), io };
}

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'ponder-translate-'));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

function book(sentences: number): string {
  const lines = Array.from(
    { length: sentences },
    (_, i) => `It is sentence ${i} of the book.${i % 5 === 0 ? '\n\n' : ' '}`,
  );
  return `Title \u2028 of it\n\n${lines.join('')}`;
}

test('plain text comes out with the layout of the input', async () => {
  const { code, io } = await translate(['-'], { stdin: 'Title\n\n- One. Two.\n- 3 {x}\n' });
  assert.equal(code, 0);
  assert.equal(io.stdout.text, 'TITLE\n\n- ONE. TWO.\n- 3 {x}\n');
  assert.equal(io.stderr.text, '');
});

test('--jsonl gives an object for each sentence', async () => {
  const engine = new SpeakingEngine((s) => [s.toUpperCase(), 'OTHER']);
  const { io } = await translate(['-', '--jsonl', '--beam', '2', '--alternatives', '1'], {
    stdin: ' Hi. You.',
    engine,
  });
  const lines = io.stdout.text.trimEnd().split('\n');
  const [first, second] = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(first, {
    index: 0,
    offset: 1,
    source: 'Hi.',
    text: 'HI.',
    alternatives: [{ text: 'OTHER', score: -1.5 }],
    score: -0.5,
    finish_reason: 'stop',
    source_depths: [3, 3, 3, 3],
    depths: [2, 2, 2, 2],
    cost: { lanes: 1, encoder_positions: 4, encoder_steps: 12, decoder_positions: 4, decoder_steps: 8 },
  });
  assert.equal(second?.offset, 5);
});

test('flags arrive as settings', async () => {
  const engine = new SpeakingEngine();
  const flags = ['--beam=3', '--length-penalty', '0.6', '--max-new-tokens', '40', '--max-steps=4', '--min-steps', '2'];
  await translate(['-', ...flags, '--threshold', '.5'], { stdin: 'Hi.', engine });
  const [request] = engine.translations;
  const budget = { maxSteps: 4, minSteps: 2, threshold: 0.5 };
  assert.deepEqual(
    [request?.beam, request?.lengthPenalty, request?.maxNewTokens, request?.encoderBudget, request?.decoderBudget],
    [3, 0.6, [40], budget, budget],
  );
  const html = await translate(['-', '--format', 'html'], { stdin: '<b>Hi</b>' });
  assert.equal(html.io.stdout.text, '<b>HI</b>');
});

for (const [argv, message] of [
  [[], /FILE is missing/],
  [['a', 'b'], /one FILE at a time/],
  [['-', '--beem', '2'], /did you mean --beam\?/],
  [['-', '--beam', '9'], /--beam must be at most 8, not 9/],
  [['-', '--beam', '0'], /--beam must be an integer of at least 1/],
  [
    ['-', '--jsonl', '--beam', '2', '--alternatives', '2'],
    /: --alternatives \(2\) must be below --beam \(2\): raise --beam or leave it out/,
  ],
  [['-', '--beam', '2', '--alternatives', '1'], /--alternatives are written by --jsonl alone: add it, or leave/],
  [['-', '--max-steps', '7'], /--max-steps must be an integer from 1 to 6/],
  [['-', '--max-new-tokens', '401'], /--max-new-tokens must be an integer from 1 to 400/],
  [['-', '--threshold', '2'], /--threshold must be a number above 0 and up to 1/],
  [['-', '--format', 'md'], /--format must be text or html, not 'md'/],
] as [string[], RegExp][]) {
  test(`translate ${argv.join(' ')}: a usage error, exit code 2`, async () => {
    const engine = new SpeakingEngine();
    const { code, io } = await translate(argv, { stdin: 'Hi.', engine });
    assert.equal(code, 2);
    assert.match(io.stderr.text, message);
  });
}

test('an output that is its own source is refused, by whatever name, and the source stays', async (t) => {
  const path = folder(t);
  const source = join(path, 'book.txt');
  writeFileSync(source, 'Hi.');
  symlinkSync(source, join(path, 'symlink'));
  linkSync(source, join(path, 'hard'));
  linkSync(source, join(path, 'out.tmp'));
  const engine = new SpeakingEngine();
  for (const output of [
    source,
    join(path, '../', path.split('/').at(-1) ?? '', 'book.txt'),
    'symlink',
    'hard',
    'out',
  ]) {
    const { code, io } = await translate([source, '--output', output.includes('/') ? output : join(path, output)], {
      engine,
    });
    assert.equal(code, 2, output);
    assert.match(io.stderr.text, /is the text to translate, which would be lost: choose another --output\n/);
  }
  const stdin = createReadStream(source);
  await once(stdin, 'open');
  const io = { ...recordedIo(), stdin };
  assert.equal(await run(['-', '--output', source], io, new AbortController().signal, fakeWorld(engine)), 2);
  stdin.destroy();
  assert.equal(readFileSync(source, 'utf8'), 'Hi.');
  assert.deepEqual(readdirSync(path).sort(), ['book.txt', 'hard', 'out.tmp', 'symlink']);
  assert.equal(engine.heard.length, 0);
  assert.equal((await translate([source, '--output', join(path, 'other')])).code, 0);
});

test('an output that is a folder is refused before any work', async (t) => {
  const path = folder(t);
  const engine = new SpeakingEngine();
  const { code, io } = await translate(['-', '--output', path], { stdin: 'Hi.', engine });
  assert.equal(code, 2);
  assert.match(io.stderr.text, /is a folder: name a file in it/);
  assert.ok(!existsSync(`${path}.part`));
  assert.equal(engine.heard.length, 0);
});

test('--output: the same text, and no journal left', async (t) => {
  const output = join(folder(t), 'out.txt');
  const { io } = await translate(['-', '--output', output], { stdin: book(40) });
  assert.equal(io.stdout.text, '');
  assert.equal(readFileSync(output, 'utf8'), book(40).toUpperCase());
  assert.ok(!existsSync(`${output}.part`));
  await translate(['-', '--output', output], { stdin: ' \n12\n' });
  assert.equal(readFileSync(output, 'utf8'), ' \n12\n');
});

for (const flags of [[], ['--jsonl']]) {
  test(`a run that is stopped goes on where it was ${flags.join('')}`, async (t) => {
    const output = join(folder(t), 'out.txt');
    const argv = ['-', '--output', output, ...flags];
    const stdin = book(300);
    await translate(['-', '--output', `${output}.whole`, ...flags], { stdin });

    const stop = new AbortController();
    const engine = new SpeakingEngine();
    engine.before = async (_, signal) => {
      await new Promise(setImmediate);
      if (engine.translations.length > 5) stop.abort();
      signal.throwIfAborted();
    };
    const stopped = await translate(argv, { stdin, engine, stop: stop.signal });
    assert.equal(stopped.code, 130);
    const [, kept = ''] = /keeps (\d+) sentences: run the same command again/.exec(stopped.io.stderr.text) ?? [];
    assert.ok(Number(kept) > 0 && Number(kept) < 302, stopped.io.stderr.text);
    assert.ok(!existsSync(output));

    // A power cut may leave half a line, or zeros.
    const part = readFileSync(`${output}.part`);
    truncateSync(`${output}.part`, part.length - 7);
    appendFileSync(`${output}.part`, '\0\0\0');
    const again = new SpeakingEngine();
    assert.equal((await translate(argv, { stdin, engine: again })).code, 0);
    assert.equal(again.heard.length, 302 - (Number(kept) - 1), 'none is translated twice but the one that was torn');
    assert.deepEqual(readFileSync(output), readFileSync(`${output}.whole`));
    assert.ok(!existsSync(`${output}.part`));
  });
}

test('a journal of another text, of other settings, or of nobody is refused with the remedy', async (t) => {
  const output = join(folder(t), 'out.txt');
  const header = { ponder_serve_translate: 1, input: { sha256: 'other', bytes: 1 }, settings: {} };
  writeFileSync(`${output}.part`, `${JSON.stringify(header)}\n`);
  const other = await translate(['-', '--output', output], { stdin: 'Hi.' });
  assert.equal(other.code, 1);
  assert.match(other.io.stderr.text, /was begun with another text: .*delete .*out\.txt\.part to start anew/);

  rmSync(`${output}.part`);
  const stop = new AbortController();
  const engine = new SpeakingEngine();
  engine.before = () => stop.abort();
  await translate(['-', '--output', output], { stdin: 'Hi.', engine, stop: stop.signal });
  const settings = await translate(['-', '--output', output, '--beam', '4'], { stdin: 'Hi.' });
  assert.equal(settings.code, 1);
  assert.match(settings.io.stderr.text, /other settings \(beam 1, now 4\): run with those, or delete/);

  writeFileSync(`${output}.part`, 'my notes\n');
  const notes = await translate(['-', '--output', output], { stdin: 'Hi.' });
  assert.match(notes.io.stderr.text, /is no journal of an interrupted run: delete it, or choose another --output/);
  assert.equal(readFileSync(`${output}.part`, 'utf8'), 'my notes\n');

  const nowhere = await translate(['-', '--output', '/nowhere/x'], { stdin: 'Hi.' });
  assert.equal(nowhere.code, 1);
  assert.match(nowhere.io.stderr.text, /cannot write \/nowhere\/x\.part \(ENOENT\)/);
});

test('kill -9 in the middle, twice, and the output is the same to the byte', async (t) => {
  const path = folder(t);
  const input = join(path, 'book.txt');
  writeFileSync(input, book(1200));
  for (const flags of [[], ['--jsonl']]) {
    const output = join(path, `out${flags.join('')}`);
    for (let kill = 0; kill < 2; kill++) {
      const records = await killedRun([input, '--output', output, ...flags], kill === 0 ? 150 : 600);
      assert.ok(records > 100 && records < 1202, `${records} records`);
      assert.ok(!existsSync(output));
    }
    await translate([input, '--output', output, ...flags]);
    await translate([input, '--output', `${output}.whole`, ...flags]);
    assert.deepEqual(readFileSync(output), readFileSync(`${output}.whole`));
  }
  assert.equal(readFileSync(join(path, 'out'), 'utf8'), book(1200).toUpperCase());
});

/** Kills the run when its journal has so many lines; resolves with how many it left. */
function killedRun(argv: string[], lines: number): Promise<number> {
  const output = argv[2] as string;
  const count = (): number =>
    existsSync(`${output}.part`) ? readFileSync(`${output}.part`, 'utf8').split('\n').length : 0;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [CHILD, ...argv], { stdio: 'ignore' });
    const watch = setInterval(() => {
      if (count() >= lines) child.kill('SIGKILL');
    }, 3);
    child.on('exit', (code, signal) => {
      clearInterval(watch);
      if (signal === 'SIGKILL') resolve(count());
      else reject(new Error(`the run ended with ${code} before it was killed`));
    });
  });
}
