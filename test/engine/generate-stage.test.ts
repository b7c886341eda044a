/** The generating stage turn by turn over a fake family: its messages, what it gives back, what it reports. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GenerateStage } from '../../src/engine/generate-stage.js';
import type { FromEngine, GenerateJob } from '../../src/engine/protocol.js';
import type { StageMessage } from '../../src/engine/stage.js';
import { ServerError } from '../../src/errors.js';
import type { GenerateLimits } from '../../src/scheduler/generate-scheduler.js';
import { FakeGeneration } from '../fake-generation.js';
import { continueAlone, logprobsAfter } from '../generation-oracle.js';
import { EOS, ranked } from '../translation-oracle.js';

const MAX_STEPS = 8;
const CONTEXT = 24;
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const LIMITS: GenerateLimits = {
  rowsMax: 40,
  lanesMax: 4,
  slotsMax: 60,
  cacheRowsMax: 3 * CONTEXT * MAX_STEPS,
  finishRowsMax: 20,
};
const PROMPT = [3, 4, 5, 6];

function job(id: number, prompts: readonly (readonly number[])[], changes: Partial<GenerateJob> = {}): GenerateJob {
  return {
    kind: 'generate',
    id,
    model: 'lm',
    prompts: prompts.map((ids) => Int32Array.from(ids)),
    budget: { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 },
    spanCap: null,
    maxNewTokens: 5,
    temperature: 0,
    topP: 1,
    seeds: prompts.map((_, i) => 100 + i),
    topLogprobs: 2,
    promptLogprobs: false,
    stopIds: [],
    streamTokens: false,
    submittedAtMs: 0,
    deadlineAtMs: null,
    ...changes,
  };
}

class Harness {
  readonly messages: StageMessage[] = [];
  readonly started: number[] = [];
  opened = 0;
  readonly family = new FakeGeneration(LIMITS);
  readonly stage = new GenerateStage(
    {
      id: 'lm',
      maxSteps: MAX_STEPS,
      contextTokens: CONTEXT,
      open: () => {
        this.opened += 1;
        return this.family;
      },
    },
    LIMITS,
  );
  /** A turn takes a millisecond. */
  nowMs = 0;

  async turn(): Promise<boolean> {
    const turn = await this.stage.turn(() => this.nowMs);
    this.nowMs += 1;
    if (turn === null) return false;
    this.started.push(...turn.started);
    this.messages.push(...turn.messages);
    return true;
  }

  async finishAll(): Promise<void> {
    for (let turns = 0; await this.turn(); turns++) assert.ok(turns < 5000, 'it comes to an end');
    const { slotsUsed, cacheRowsUsed, lanesWaiting, lanesRunning } = this.stage.gauges();
    assert.deepEqual([slotsUsed, cacheRowsUsed, lanesWaiting, lanesRunning], [0, 0, 0, 0]);
  }

  of<T extends FromEngine['type']>(type: T): Extract<FromEngine, { type: T }>[] {
    return this.messages.flatMap(({ message }) => (message.type === type ? [message as never] : []));
  }
}

/** What a prompt of these tests is continued with. */
function alone(prompt: readonly number[], maxNewTokens = 5, stopIds: readonly number[] = []) {
  const { budget } = job(0, []);
  const settings = { temperature: 0, topP: 1, seed: 0, topCount: 2, promptLogprobs: false, stopIds: new Set(stopIds) };
  return continueAlone({ prompt: Int32Array.from(prompt), budget, maxNewTokens, ...settings });
}

test('the pools are opened with the first job and not before', async () => {
  const harness = new Harness();
  assert.deepEqual([await harness.turn(), harness.opened], [false, 0]);
  harness.stage.submit(job(1, [PROMPT]), FOREVER);
  await harness.finishAll();
  harness.stage.submit(job(2, [PROMPT]), FOREVER);
  await harness.finishAll();
  assert.equal(harness.opened, 1);
});

test('a job that streams: the scores of its prompt, each token as it is decided, and the whole, the same numbers', async () => {
  const harness = new Harness();
  const streaming = job(1, [PROMPT], { streamTokens: true, promptLogprobs: true });
  assert.equal(harness.stage.submit(streaming, FOREVER), 1);
  await harness.finishAll();
  const types = harness.messages.map(({ message }) => message.type);
  assert.deepEqual(types, ['prompt', ...new Array(5).fill('generated'), 'sequence']);
  const [{ result }] = harness.of('sequence') as [ReturnType<typeof harness.of<'sequence'>>[number]];
  assert.equal(harness.of('prompt')[0]?.scores, result.prompt);
  for (const field of ['ids', 'logprobs', 'depths', 'remainders', 'topIds', 'topLogprobs'] as const) {
    const streamed = harness.of('generated').flatMap(({ token }) => [...token[field]]);
    assert.deepEqual(streamed, [...result.tokens[field]], field);
  }
  const expected = alone(PROMPT);
  assert.deepEqual([...result.tokens.ids], expected.ids);
  assert.deepEqual([...(result.prompt?.depths ?? []), ...result.tokens.depths], expected.depths);
  const scores = PROMPT.map((id, i) => logprobsAfter(PROMPT.slice(0, i))[id]);
  assert.deepEqual([...(result.prompt?.logprobs ?? [])], scores);
  const best = PROMPT.flatMap((_, i) => ranked(logprobsAfter(PROMPT.slice(0, i))).slice(0, 2));
  assert.deepEqual([...(result.prompt?.topIds ?? [])], best);
  assert.deepEqual([result.positions, result.positionSteps], [PROMPT.length + 5, expected.positionSteps]);
  assert.ok((result.firstTokenAtMs ?? 0) > 0 && (result.firstTokenAtMs ?? 0) < harness.nowMs);
});

test('a job that does not stream hears of whole sequences only, each completing a part', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, [PROMPT, [], [7, 7]]), FOREVER);
  await harness.finishAll();
  assert.deepEqual(
    harness.messages.map(({ message, completesPart }) => [message.type, completesPart]),
    new Array(3).fill(['sequence', true]),
  );
  for (const { index, result } of harness.of('sequence'))
    assert.deepEqual([...result.tokens.ids], alone([PROMPT, [], [7, 7]][index] ?? []).ids);
  assert.ok(harness.started.includes(1));
});

test('a stop id ends a sequence and is its last token; without one it ends by length', async () => {
  const harness = new Harness();
  const said = alone(PROMPT, 12).ids;
  const stopId = said[3] as number;
  harness.stage.submit(job(1, [PROMPT], { maxNewTokens: 12, stopIds: [stopId, EOS] }), FOREVER);
  harness.stage.submit(job(2, [PROMPT], { maxNewTokens: 2 }), FOREVER);
  await harness.finishAll();
  const ends = new Map(harness.of('sequence').map(({ jobId, result }) => [jobId, result]));
  const expected = alone(PROMPT, 12, [stopId, EOS]);
  assert.deepEqual([[...(ends.get(1)?.tokens.ids ?? [])], ends.get(1)?.finishReason], [expected.ids, 'stop']);
  assert.deepEqual([ends.get(2)?.tokens.ids.length, ends.get(2)?.finishReason], [2, 'length']);
});

test('a sequence ends with the context, and a prompt beyond it is refused', async () => {
  const harness = new Harness();
  const full = new Array<number>(CONTEXT).fill(9);
  harness.stage.submit(job(1, [full.slice(3), full]), FOREVER);
  assert.throws(
    () => harness.stage.submit(job(2, [[3], [...full, 9]]), FOREVER),
    (error) => error instanceof ServerError && error.code === 'INVALID_REQUEST' && /25 tokens/.test(error.message),
  );
  await harness.finishAll();
  const lengths = harness.of('sequence').map(({ index, result }) => [index, result.tokens.ids.length]);
  assert.deepEqual(lengths.sort(), [
    [0, 3],
    [1, 0],
  ]);
});

test('a sequence that is stopped is answered at once as it stands; its siblings go on', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, [PROMPT, PROMPT], { maxNewTokens: 12, streamTokens: true }), FOREVER);
  while (harness.of('generated').filter(({ index }) => index === 0).length < 2) await harness.turn();
  harness.stage.stop(1, 0);
  await harness.turn();
  const last = harness.messages.at(-1);
  assert.ok(last?.message.type === 'sequence' && last.completesPart);
  const { index, result } = last.message;
  assert.deepEqual([index, result.finishReason, result.tokens.ids.length], [0, 'stop', 2]);
  harness.stage.stop(1, 0);
  await harness.finishAll();
  assert.deepEqual(
    harness.of('sequence').map((message) => message.result.tokens.ids.length),
    [2, 12],
  );
});

test('a job that is aborted says nothing more, not even what was stopped before', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, [PROMPT, PROMPT]), FOREVER);
  for (let i = 0; i < 6; i++) await harness.turn();
  harness.stage.stop(1, 0);
  harness.stage.abort(1);
  const heard = harness.messages.length;
  await harness.finishAll();
  assert.equal(harness.messages.length, heard);
});

test('a job that is out of time leaves', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, [PROMPT]), { deadlineAtMs: 3, startByMs: Number.POSITIVE_INFINITY });
  await harness.turn();
  assert.deepEqual(harness.stage.expire(3), [{ jobId: 1, limit: 'deadline' }]);
  await harness.finishAll();
  assert.deepEqual(harness.messages, []);
});

test('what it reports is what the family computed', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, [PROMPT, [7]], { promptLogprobs: true }), FOREVER);
  await harness.finishAll();
  const [report] = harness.stage.telemetry();
  assert.ok(report);
  const { steps, activeRows, renewedRows, halted } = harness.family.totals;
  assert.deepEqual(
    [report.stage, report.steps, report.activeRows, report.renewedRows],
    ['generate', steps, activeRows, renewedRows],
  );
  assert.equal(
    report.haltedAtStep.reduce((sum, count) => sum + count, 0),
    halted,
  );
  assert.equal(
    report.haltedAtStep.reduce((sum, count, step) => sum + count * step, 0),
    activeRows,
  );
});
