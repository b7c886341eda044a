/** Models that come and go in a running loop: between two turns, and never with a job of theirs in work. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FromEngine, ToEngine } from '../../src/engine/protocol.js';
import { ScoreStage } from '../../src/engine/score-stage.js';
import { FakeFamily } from '../fake-family.js';
import { describeModel } from '../fakes.js';
import { scoreLoop } from './score-loop.js';

const LIMITS = { rowsMax: 32, lanesMax: 4, slotsMax: 64, finishRowsMax: 16 };

const submit = (id: number, model: string): ToEngine => ({
  type: 'submit',
  job: {
    kind: 'score',
    id,
    model,
    windows: [{ ids: new Int32Array(5).fill(id), scoreFrom: 0 }],
    budget: { maxSteps: 8, minSteps: 1, threshold: 0.99 },
    topLogprobs: 0,
    submittedAtMs: 0,
    deadlineAtMs: null,
  },
});
const open = (jobId: number, id: string): ToEngine => ({ type: 'open', jobId, model: describeModel({ id }) });
const close = (jobId: number, model: string): ToEngine => ({ type: 'close', jobId, model });

/** Runs a loop that begins with the model m over these messages, then drains it. Returns what it answered to each job, in order. */
async function answersTo(...messages: readonly ToEngine[]) {
  const inbox: ToEngine[] = [...messages];
  const answers: string[] = [];
  const closed: string[] = [];
  const scoring = (id: string) => ({ id, maxSteps: 8, family: new FakeFamily(LIMITS) });
  const loop = scoreLoop({
    models: [scoring('m')],
    limits: LIMITS,
    queueWaitMsMax: 1000,
    now: () => 0,
    receive: () => inbox.shift() ?? null,
    wait: async () => void inbox.push({ type: 'drain' }),
    post: (message: FromEngine) => {
      if (message.type === 'done') answers.push(`${message.jobId} done`);
      if (message.type === 'failed') answers.push(`${message.jobId} ${message.code}`);
    },
    opener: {
      open: async ({ id }) => {
        if (id === 'broken') throw new Error('step.onnx is broken');
        return [new ScoreStage(scoring(id), LIMITS)];
      },
      close: (id) => {
        closed.push(`${id} after ${answers.length} answers`);
      },
    },
  });
  await loop.run();
  return { answers, closed };
}

test('a model that is opened takes jobs from then on', async () => {
  const { answers } = await answersTo(submit(1, 'm'), open(2, 'n'));
  assert.deepEqual(answers, ['2 done', '1 done']);
  const later = await answersTo(open(1, 'n'));
  assert.deepEqual(later.answers, ['1 done']);
});

test('one that can’t be opened is answered with the reason, and the others go on', async () => {
  const { answers, closed } = await answersTo(open(1, 'broken'), submit(2, 'm'));
  assert.deepEqual(answers, ['1 INVALID_REQUEST', '2 done']);
  assert.deepEqual(closed, []);
});

test('a model that is closed answers what is in, refuses what is new, and only then is released', async () => {
  const { answers, closed } = await answersTo(submit(1, 'm'), close(2, 'm'), submit(3, 'm'));
  assert.deepEqual(answers, ['3 UNKNOWN_MODEL', '1 done', '2 done']);
  assert.deepEqual(closed, ['m after 2 answers']);
});

test('a job that is aborted does not hold its model', async () => {
  const { answers } = await answersTo(submit(1, 'm'), { type: 'abort', jobId: 1 }, close(2, 'm'));
  assert.deepEqual(answers, ['2 done']);
});
