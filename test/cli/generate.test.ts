import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type GenerateWorld, run } from '../../src/cli/generate.js';
import { describeSpanModel } from '../fake-span.js';
import { ByteTokenizer, describeModel, describeTranslator, FakeEngine } from '../fakes.js';
import { type RecordedIo, recordedIo } from './streams.js';

const NEVER = new AbortController().signal;
/** The fake engine continues a text with itself, its case swapped, and then the end of text. */
const MODEL = describeModel({ id: 'lm', contextTokens: 64 });

function fakeWorld(engine = new FakeEngine([MODEL]), changes: Partial<GenerateWorld> = {}): GenerateWorld {
  return {
    env: {},
    loadModels: async () => ({ models: [MODEL], refused: [] }),
    loadTokenizer: async () => new ByteTokenizer(),
    startEngine: async () => engine,
    ...changes,
  };
}

async function generate(
  argv: string[],
  options: { stdin?: string; world?: GenerateWorld; isTTY?: boolean; stop?: AbortSignal } = {},
): Promise<{ code: number; io: RecordedIo }> {
  const io = recordedIo(options);
  return { code: await run(argv, io, options.stop ?? NEVER, options.world ?? fakeWorld()), io };
}

test('it writes the continuation and, apart, what it cost', async () => {
  const engine = new FakeEngine([MODEL]);
  const { code, io } = await generate(['Hello there'], { world: fakeWorld(engine) });
  assert.equal(code, 0);
  assert.equal(io.stdout.text, 'hELLO THERE\n');
  assert.match(io.stderr.text, /^12 tokens, mean depth \d\.\d\d, \d+ tokens\/s, the text ended\n$/);
  assert.equal(engine.state, 'draining', 'the engine is stopped at the end');
  const [request] = engine.generations;
  assert.deepEqual(
    [request?.temperature, request?.topP, request?.maxNewTokens],
    [0, 1, 64],
    'the best tokens, unless told',
  );
});

test('the prompt comes from a file or from standard input', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-generate-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'prompt.txt');
  writeFileSync(file, 'from a file');
  assert.equal((await generate(['--file', file])).io.stdout.text, 'FROM A FILE\n');
  assert.equal((await generate(['--file', '-'], { stdin: 'from afar' })).io.stdout.text, 'FROM AFAR\n');
});

test('an empty prompt continues the start of a text', async () => {
  const { code, io } = await generate(['']);
  assert.deepEqual([code, io.stdout.text], [0, '\n']);
});

test('every flag reaches the engine', async () => {
  const engine = new FakeEngine([MODEL]);
  const flags = '--max-tokens 7 --temperature 0.5 --top-p 0.9 --seed 42 --max-steps 4 --min-steps 2 --threshold 0.5';
  await generate(['abc', ...flags.split(' '), '--ignore-eos'], { world: fakeWorld(engine) });
  const [request] = engine.generations;
  const { maxNewTokens, temperature, topP, seeds, budget, stopIds } = request ?? {};
  assert.deepEqual(
    { maxNewTokens, temperature, topP, seeds, budget, stopIds },
    {
      maxNewTokens: 7,
      temperature: 0.5,
      topP: 0.9,
      seeds: [42],
      budget: { maxSteps: 4, minSteps: 2, threshold: 0.5 },
      stopIds: [],
    },
  );
});

test('--stop ends before its text, though it lies across tokens', async () => {
  const { io } = await generate(['one two three', '--stop', 'O TH']);
  assert.equal(io.stdout.text, 'ONE TW\n');
  assert.match(io.stderr.text, /the text ended/);
});

test('--max-tokens cuts, and says so', async () => {
  const { io } = await generate(['one two three', '--max-tokens', '5']);
  assert.equal(io.stdout.text, 'ONE T\n');
  assert.match(io.stderr.text, /cut at --max-tokens/);
});

test('--heatmap writes the depth of each token, in digits where there are no colours', async () => {
  const { io } = await generate(['ab', '--heatmap']);
  assert.match(io.stdout.text, /^depth of each token in subscript, 1 to 8 steps\nA[₁-₈]B[₁-₈]\n$/);
});

test('control characters move nothing on a terminal, and stay in a pipe', async () => {
  const shown = await generate(['\u001b[2J'], { isTTY: true });
  assert.equal(shown.io.stdout.text, '␛[2j\n');
  const piped = await generate(['\u001b[2J']);
  assert.equal(piped.io.stdout.text, '\u001b[2j\n');
});

test('--json is the reply of POST /v1/completions', async () => {
  const { io } = await generate(['abc', '--json']);
  const { choices, usage, ponder, ...head } = JSON.parse(io.stdout.text);
  assert.deepEqual(choices, [{ index: 0, text: 'ABC', logprobs: null, finish_reason: 'stop' }]);
  assert.deepEqual(usage, { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 });
  assert.ok(ponder.mean > 0);
  assert.deepEqual([head.object, head.model], ['text_completion', 'lm']);
  assert.equal(io.stderr.text, '');
});

const both = [describeModel({ id: 'a' }), describeModel({ id: 'b' })];
const mistakes: readonly [string, string[], number, RegExp, Partial<GenerateWorld>?][] = [
  ['no prompt', [], 2, /one prompt is needed/],
  ['two prompts', ['a', 'b'], 2, /put it in quotes/],
  ['a prompt and a file', ['a', '--file', '-'], 2, /one prompt is needed/],
  ['json and heatmap', ['a', '--json', '--heatmap'], 2, /exclude each other/],
  ['a temperature of words', ['a', '--temperature', 'hot'], 2, /--temperature must be a number from 0 to 2, not 'hot'/],
  ['too high a temperature', ['a', '--temperature', '2.5'], 2, /--temperature must be/],
  ['a top_p of 0', ['a', '--top-p', '0'], 2, /--top-p must be a number above 0/],
  ['a seed below 0', ['a', '--seed=-1'], 2, /--seed must be a whole number/],
  ['too many steps', ['a', '--max-steps', '9'], 2, /--max-steps/],
  ['a span without spans', ['a', '--span-max', '9'], 2, /--span-max is for models with attention spans/],
  ['more tokens than the context', ['abc', '--max-tokens', '62'], 2, /--max-tokens is 62: together they exceed/],
  [
    'depths of a model that has none',
    ['a', '--heatmap'],
    2,
    /--heatmap shows depths, and this model has one depth for all tokens: leave it out/,
    { loadModels: async () => ({ models: [describeSpanModel()], refused: [] }) },
  ],
  ['an unknown option', ['a', '--temprature', '1'], 2, /did you mean --temperature/i],
  ['several models', ['a'], 2, /which model\? .*a, b/, { loadModels: async () => ({ models: both, refused: [] }) }],
  [
    'a model that translates',
    ['a', '--model', 'mt'],
    2,
    /mt does not continue texts/,
    { loadModels: async () => ({ models: [describeTranslator({ id: 'mt' })], refused: [] }) },
  ],
  [
    'no model',
    ['a'],
    1,
    /no model package that continues texts/,
    { loadModels: async () => ({ models: [], refused: [] }) },
  ],
];
for (const [what, argv, expected, message, changes] of mistakes) {
  test(`${what}: a line that says what to do`, async () => {
    const { code, io } = await generate(argv, { world: fakeWorld(undefined, changes) });
    assert.equal(code, expected);
    assert.match(io.stderr.text, message);
    assert.equal(io.stdout.text, '');
  });
}

test('stopped half way, it says so and stops the engine', async () => {
  const engine = new FakeEngine([MODEL]);
  engine.shutGate();
  const stop = new AbortController();
  const running = generate(['abc'], { world: fakeWorld(engine), stop: stop.signal });
  await engine.arrived(1);
  stop.abort();
  const { code, io } = await running;
  assert.equal(code, 130);
  assert.match(io.stderr.text, /stopped/);
  assert.equal(engine.state, 'draining');
});
