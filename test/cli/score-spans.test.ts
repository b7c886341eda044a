/** `score` with a model that has attention spans, over the fake engine. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { run } from '../../src/cli/score.js';
import type { SpanScoreReply } from '../../src/http/span-schemas.js';
import { ByteTokenizer } from '../../src/tokenize/byte-tokenizer.js';
import { describeSpanModel } from '../fake-span.js';
import { FakeEngine } from '../fakes.js';
import { recordedIo } from './streams.js';

async function score(
  argv: string[],
  options: { stdin?: string | Buffer; engine?: FakeEngine; stop?: AbortSignal } = {},
) {
  const io = recordedIo(options);
  const engine = options.engine ?? new FakeEngine([describeSpanModel()]);
  const world = {
    env: {},
    loadModels: async () => ({ models: [describeSpanModel()], refused: [] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
  };
  const code = await run(argv, io, options.stop ?? new AbortController().signal, world);
  return { code, engine, out: io.stdout.text, err: io.stderr.text };
}

function fileWith(t: TestContext, content: string | Buffer): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-score-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'text.txt');
  writeFileSync(file, content);
  return file;
}

test('a file goes to the engine piece by piece, as one stream', async (t) => {
  const file = fileWith(t, 'x'.repeat(200_000));
  const { code, engine, out } = await score([file]);
  assert.equal(code, 0);
  assert.deepEqual(
    engine.streams.map(({ texts, session }) => [texts[0]?.length, session?.continues]),
    [
      [65_536, false],
      [65_536, true],
      [65_536, true],
      [3_392, true],
    ],
  );
  assert.match(out, /tokens +200,000 of 200,000 bytes/);
  assert.match(out, /mean span +23\.0 of 64 keys, over 4 heads/);
  assert.match(out, /keys looked at +18,400,000 of 51,200,000 \(35\.9 %\)/);
  assert.equal(engine.state, 'draining', 'the engine is stopped at the end');
  const { out: piped } = await score(['-'], { stdin: 'x'.repeat(200_000) });
  assert.equal(piped.replace(/time .*/, ''), out.replace(/time .*/, ''));
});

test('bytes that are no text are scored like any others', async () => {
  const { code, out } = await score(['-'], { stdin: Buffer.from([0xff, 0xfe, 0]) });
  assert.equal(code, 0);
  assert.match(out, /tokens +3 of 3 bytes/);
});

test('--span-max caps the spans, --span-cost tells what that cost', async () => {
  const { out, engine } = await score(['-', '--span-max', '8', '--span-cost'], { stdin: 'x'.repeat(100) });
  assert.match(out, /mean span +9\.8 of 64/);
  assert.match(out, /cost of the cap +50\.00 nats, 0\.7213 bits per byte/);
  assert.deepEqual(
    engine.streams.map(({ spanCap }) => spanCap),
    [8, null],
  );
});

test('--json is the reply of POST /v1/score, with its tokens; --lines scores each line by itself', async () => {
  const { out } = await score(['-', '--json', '--lines'], { stdin: 'one\n\ntwo' });
  const reply = JSON.parse(out) as SpanScoreReply;
  assert.deepEqual(
    reply.results.map(({ index, tokens }) => [index, tokens?.map(({ text }) => text).join('')]),
    [
      [0, 'one'],
      [2, 'two'],
    ],
  );
  assert.equal(reply.usage.tokens, 6);
  const lines = await score(['-', '--lines'], { stdin: 'one\n\ntwo' });
  assert.match(lines.out, /line +bytes.*\n +1 +3 .* one\n +3 +3 .* two\n/);
});

test('what does not fit is a mistake on the command line, named by its flag', async (t) => {
  for (const [argv, says] of [
    [['-', '--max-steps', '3'], /--max-steps is for models with adaptive depth.*--span-max/],
    [['-', '--stride', '3'], /--stride is for models with windows/],
    [['-', '--span-max', '65'], /--span-max must be an integer from 0 to 64/],
    [['-', '--span-cost'], /--span-cost tells the cost of --span-max/],
    [['-', '--heatmap'], /--heatmap shows depths/],
  ] as const) {
    const { code, err } = await score([...argv], { stdin: 'a' });
    assert.equal(code, 2, err);
    assert.match(err, says);
  }
  const empty = await score([fileWith(t, '')]);
  assert.equal(empty.code, 1);
  assert.match(empty.err, /is empty/);
  const missing = await score(['/no/such/file']);
  assert.match(missing.err, /cannot read \/no\/such\/file \(ENOENT\)/);
});

test('stopped midway: 130, and the engine is stopped too', async () => {
  const engine = new FakeEngine([describeSpanModel()]);
  engine.shutGate();
  const stop = new AbortController();
  const working = score(['-'], { stdin: 'x'.repeat(100), engine, stop: stop.signal });
  await engine.arrived(1);
  stop.abort();
  assert.equal((await working).code, 130);
  assert.equal(engine.state, 'draining');
});
