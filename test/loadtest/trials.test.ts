/** The trials in their short forms, against servers of their own. How long something takes is left to the long forms: CI is shared. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostile } from '../../loadtest/trials/hostile.js';
import { drawHostile } from '../../loadtest/trials/hostile-requests.js';
import { kill } from '../../loadtest/trials/kill.js';
import { sigterm } from '../../loadtest/trials/sigterm.js';
import { runTrial, type Trial } from '../../loadtest/trials/trial.js';
import { vanish } from '../../loadtest/trials/vanish.js';
import { recordedIo } from '../cli/streams.js';
import { Random } from '../seed.js';

const LIMITED = { timeout: 240_000 };
const OF_TIME = /back after|times what it was alone|resident memory grew/;

async function problemsOf(
  trial: Trial,
  ...argv: string[]
): Promise<{ result: Record<string, Record<string, number>>; problems: string[] }> {
  const io = recordedIo();
  await runTrial(trial, [...argv, '--threads=1', '--json'], io);
  const result = JSON.parse(io.stdout.text) as Record<string, Record<string, number>> & { problems: string[] };
  return { result, problems: result.problems.filter((problem) => !OF_TIME.test(problem)) };
}

test('SIGTERM under load: nothing that was taken is lost', LIMITED, async () => {
  const { result, problems } = await problemsOf(sigterm, '--times=1', '--seconds=1');
  assert.deepEqual(problems, []);
  assert.ok((result.before?.OK ?? 0) > 0);
});

test('the engine is killed under load: requests get 503, and it serves again', LIMITED, async () => {
  const { result, problems } = await problemsOf(kill, '--times=2');
  assert.deepEqual(problems, []);
  assert.ok((result.outcomes?.ENGINE_LOST ?? 0) > 0);
});

test('clients that vanish leave nothing behind', LIMITED, async () => {
  const { result, problems } = await problemsOf(vanish, '--times=150');
  assert.deepEqual(problems, []);
  assert.ok((result.outcomes?.CLIENT_CLOSED ?? 0) > 30);
});

test('hostile requests: none is answered with 5xx, and the valid ones beside them are served', LIMITED, async () => {
  const { result, problems } = await problemsOf(hostile, '--times=300', '--seconds=2');
  assert.deepEqual(problems, []);
  assert.ok((result.statuses?.['400'] ?? 0) > 30);
});

test('a seed draws the same hostile requests again, of every kind', () => {
  const draw = (seed: number) => {
    const random = new Random(seed);
    return Array.from({ length: 300 }, () => drawHostile(random));
  };
  assert.deepEqual(draw(1), draw(1));
  assert.equal(new Set(draw(1).map(({ kind }) => kind)).size, 15);
});
