import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { recommend, recommendFloor, render, run, settingsOf, type Tuned } from '../../src/cli/tune.js';
import { recordedIo } from './streams.js';

const NEVER = new AbortController().signal;

test('every cap and the thresholds below the model own are tried, its own first', () => {
  const settings = settingsOf({ maxSteps: 4, threshold: 0.9 });
  assert.deepEqual(
    settings.map(({ name }) => name),
    [
      "the model's own",
      'max_steps 3',
      'max_steps 2',
      'max_steps 1',
      'threshold 0.8',
      'threshold 0.7',
      'threshold 0.5',
      'threshold 0.3',
    ],
  );
  assert.deepEqual(settings[0]?.budget, { maxSteps: 4, minSteps: 1, threshold: 0.9 });
});

test('the cheapest within the loss is recommended; its own when nothing else is', () => {
  const tuned = (name: string, bitsPerByte: number, stepsPerToken: number): Tuned => ({
    name,
    budget: { maxSteps: 4, minSteps: 1, threshold: 0.9 },
    bitsPerByte,
    stepsPerToken,
    tokensPerSecond: 1,
  });
  const measured = [tuned('own', 1, 4), tuned('a', 1.009, 3), tuned('b', 1.01, 2.5), tuned('c', 1.2, 1)];
  assert.equal(recommend(measured, 1).name, 'b');
  assert.equal(recommend(measured, 0).name, 'own');
  assert.equal(recommend(measured, 50).name, 'c');
});

test('the floor of quality adaptive is the lowest cap within the loss, also where a threshold is cheaper', () => {
  const tuned = (name: string, maxSteps: number, threshold: number, bitsPerByte: number, steps: number): Tuned => ({
    name,
    budget: { maxSteps, minSteps: 1, threshold },
    bitsPerByte,
    stepsPerToken: steps,
    tokensPerSecond: 1,
  });
  const settings = [
    tuned('own', 4, 0.9, 1, 3.5),
    tuned('max_steps 3', 3, 0.9, 1.005, 3),
    tuned('max_steps 2', 2, 0.9, 1.02, 2),
    tuned('threshold 0.7', 4, 0.7, 1.008, 2.5),
  ];
  assert.equal(recommend(settings, 1).name, 'threshold 0.7');
  assert.deepEqual(
    [0, 1, 2].map((loss) => recommendFloor(settings, loss)),
    [4, 3, 2],
  );
  const recommended = recommend(settings, 1);
  const text = render({ settings, recommended, qualityStepsMin: recommendFloor(settings, 1), loss: 1 });
  assert.match(text, /In a request: \{"threshold":0\.7\}; as the floor of quality adaptive: --quality-steps-min 3\n$/);
});

test('the shipped package: the curve falls and flattens, and is drawn', { timeout: 120_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'tune-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const io = recordedIo();
  const argv = ['--tokens', '256', '--threads', '1', '--json', '--svg', join(folder, 'curve.svg')];
  assert.equal(await run(argv, io, NEVER, {}), 0, io.stderr.text);
  const { settings, recommended } = JSON.parse(io.stdout.text) as { settings: Tuned[]; recommended: Tuned };
  const own = settings[0] as Tuned;
  const capped = settings.filter(({ name }) => name.startsWith('max_steps'));
  assert.ok(
    capped.every((setting, i) => i === 0 || setting.stepsPerToken < (capped[i - 1] as Tuned).stepsPerToken + 1e-9),
  );
  assert.ok((capped.at(-1)?.bitsPerByte ?? 0) > own.bitsPerByte * 1.05, 'one step is much worse');
  assert.equal(capped.at(-1)?.stepsPerToken, 1);
  assert.ok(recommended.stepsPerToken <= own.stepsPerToken && recommended.bitsPerByte <= own.bitsPerByte * 1.01);
  assert.match(readFileSync(join(folder, 'curve.svg'), 'utf8'), /^<svg .*bits per byte over steps a token/);
  const wrong = recordedIo();
  assert.equal(await run(['--loss', 'much'], wrong, NEVER, {}), 2);
  assert.match(wrong.stderr.text, /--loss must be a number from 0 to 100/);
});
