/** What is asked of each block and who shares one; that sequences say what they would say alone is in test/engine/span-generate-stage.test.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SpanBlockResult } from '../../src/engine/protocol.js';
import {
  type SpanGeneratePlan,
  SpanGenerateScheduler,
  type SpanSequenceRequest,
} from '../../src/scheduler/span-generate-scheduler.js';
import type { SpanLimits } from '../../src/scheduler/span-scheduler.js';

const BOS = 1;
const VOCABULARY = 10;
const LIMITS: SpanLimits = { lanesMax: 3, rowsMax: 64, blockTokens: 32 };
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

function asked(jobId: number, changes: Partial<SpanSequenceRequest> = {}): SpanSequenceRequest {
  const sampling = { temperature: 0, topP: 1, seed: 0 };
  const wanted = { maxNewTokens: 2, topCount: 0, promptLogprobs: false, stopIds: new Set<number>() };
  return {
    jobId,
    index: 0,
    prompt: new Int32Array(5).fill(7),
    spanCap: null,
    reach: 64,
    ...sampling,
    ...wanted,
    ...changes,
  };
}

function scheduling(limits: Partial<SpanLimits> = {}) {
  return new SpanGenerateScheduler({ ...LIMITS, ...limits }, BOS, VOCABULARY);
}

/** The best tokens of position i are i, i + 1, ..., their log-probabilities -i, -i - 1, ... */
function computed({ lanes, blockTokens }: SpanGeneratePlan): SpanBlockResult[] {
  return lanes.map(({ done, left, request: { topCount: k } }) => {
    const positions = Array.from({ length: Math.min(blockTokens, left) }, (_, t) => done + t);
    return {
      logprobs: Float32Array.from(positions, (position) => -position),
      topIds: Int32Array.from(positions.flatMap((position) => Array.from({ length: k }, (_, rank) => position + rank))),
      topLogprobs: Float32Array.from(
        positions.flatMap((position) => Array.from({ length: k }, (_, r) => -position - r)),
      ),
      spans: Float32Array.from(positions, (position) => 10 * position),
    };
  });
}

function step(scheduler: SpanGenerateScheduler) {
  const plan = scheduler.schedule();
  assert.ok(plan !== null);
  const jobs = plan.lanes.map(({ asked: { jobId } }) => jobId);
  const topCounts = plan.lanes.map(({ request }) => request.topCount);
  return { plan, jobs, topCounts, ...scheduler.apply(plan, computed(plan)) };
}

/** What each block of a sequence that is alone is asked to rank. */
function ranksAsked(changes: Partial<SpanSequenceRequest>): number[] {
  const scheduler = scheduling();
  scheduler.submit(1, [asked(1, { prompt: new Int32Array(70).fill(7), ...changes })], FOREVER);
  const ranks: number[] = [];
  while (scheduler.lanesWaiting + scheduler.lanesRunning > 0) ranks.push(...step(scheduler).topCounts);
  return ranks;
}

test('a block ranks no more tokens than somebody looks at', () => {
  // Blocks of 32, 32 and 7 with the position that decides, then one for the second token.
  assert.deepEqual(ranksAsked({}), [0, 0, 1, 1], 'the best, where a token is chosen');
  assert.deepEqual(ranksAsked({ topCount: 3 }), [0, 0, 3, 3], 'its rivals, where they are wanted');
  assert.deepEqual(ranksAsked({ topCount: 3, promptLogprobs: true }), [3, 3, 3, 3]);
  assert.deepEqual(ranksAsked({ temperature: 0.5, topCount: 3 }), [0, 0, VOCABULARY, VOCABULARY], 'all, to draw from');
  assert.deepEqual(ranksAsked({ temperature: 0.5, topCount: 3, promptLogprobs: true }).slice(0, 2), [3, 3]);
  assert.deepEqual(ranksAsked({ maxNewTokens: 0, topCount: 3, promptLogprobs: true }), [3, 3, 3]);
  assert.deepEqual(ranksAsked({ maxNewTokens: 0, temperature: 1 }), [0, 0, 0], 'nothing is drawn');
});

test('the scores of a prompt are those of its own positions, as many ranks of each as were asked, whatever a draw needs', () => {
  for (const temperature of [0, 0.01]) {
    const scheduler = scheduling();
    const prompt = new Int32Array(40).fill(7);
    scheduler.submit(1, [asked(1, { prompt, temperature, topCount: 2, promptLogprobs: true })], FOREVER);
    step(scheduler);
    const { tokens } = step(scheduler);
    const { sequence, token } = tokens[0] as (typeof tokens)[0];
    const positions = [...prompt.keys()];
    assert.deepEqual(
      [...(sequence.promptScores?.logprobs ?? [])],
      positions.map((at) => -at),
    );
    assert.deepEqual(
      [...(sequence.promptScores?.topIds ?? [])],
      positions.flatMap((at) => [at, at + 1]),
    );
    assert.deepEqual(
      [...(sequence.promptScores?.topLogprobs ?? [])],
      positions.flatMap((at) => [-at, -at - 1]),
    );
    assert.deepEqual(
      [...(sequence.promptScores?.spans ?? [])],
      positions.map((at) => 10 * at),
    );
    // The position behind the prompt decides; its rivals are cut to those asked too.
    assert.deepEqual([token.id, token.logprob, token.span], [40, -40, 400]);
    assert.deepEqual(
      [[...token.topIds], [...token.topLogprobs]],
      [
        [40, 41],
        [-40, -41],
      ],
    );
    step(scheduler);
    assert.equal(sequence.promptScores?.logprobs.length, 40, 'later tokens add nothing to them');
  }
});

test('a prompt whose scores nobody asked for has none', () => {
  const scheduler = scheduling();
  scheduler.submit(1, [asked(1)], FOREVER);
  const { tokens } = step(scheduler);
  assert.equal(tokens[0]?.sequence.promptScores, null);
});

test('sequences share a block as far as rowsMax goes, and take turns beyond; one alone runs whatever its block', () => {
  const scheduler = scheduling({ rowsMax: 33 });
  for (const id of [1, 2]) scheduler.submit(id, [asked(id, { prompt: new Int32Array(70) })], FOREVER);
  assert.deepEqual([step(scheduler).jobs, step(scheduler).jobs, step(scheduler).jobs], [[1], [2], [1]]);
  const narrow = scheduling({ rowsMax: 8 });
  for (const id of [1, 2]) narrow.submit(id, [asked(id)], FOREVER);
  assert.deepEqual(step(narrow).jobs, [1]);
});

test('no more sequences run than there are caches; who leaves makes room for who waits', () => {
  const scheduler = scheduling({ lanesMax: 2 });
  for (const id of [1, 2, 3]) scheduler.submit(id, [asked(id, { maxNewTokens: id })], FOREVER);
  assert.deepEqual([scheduler.lanesWaiting, scheduler.lanesRunning, scheduler.slotsUsed], [3, 0, 0]);
  const first = step(scheduler);
  assert.deepEqual([first.jobs, first.done.map(({ finishReason }) => finishReason)], [[1, 2], ['length']]);
  assert.deepEqual([scheduler.lanesWaiting, scheduler.lanesRunning, scheduler.slotsUsed], [1, 1, 1]);
  step(scheduler);
  assert.deepEqual([scheduler.lanesWaiting, scheduler.slotsUsed], [0, 1], 'the second said its last, the third is in');
});

test('tenants take turns by what they may compute: the prompt and all new tokens', () => {
  const scheduler = scheduling({ lanesMax: 1 });
  const of = (tenant: string) => ({ ...FOREVER, tenant });
  // Five positions of each prompt, and of b nine more.
  for (const id of [1, 2, 3]) scheduler.submit(id, [asked(id, { maxNewTokens: 0 })], of('a'));
  for (const id of [4, 5]) scheduler.submit(id, [asked(id, { maxNewTokens: 9, stopIds: new Set([5]) })], of('b'));
  const jobs: number[] = [];
  while (scheduler.lanesWaiting + scheduler.lanesRunning > 0) jobs.push(...step(scheduler).jobs);
  assert.deepEqual(jobs, [1, 4, 2, 3, 5]);
});

test('a stop token ends a sequence, and is its last', () => {
  const scheduler = scheduling();
  // The position behind a prompt of five says 5, the one after it 6.
  scheduler.submit(1, [asked(1, { maxNewTokens: 9, stopIds: new Set([6]) })], FOREVER);
  assert.deepEqual(step(scheduler).done, []);
  const { done } = step(scheduler);
  assert.deepEqual(
    done.map(({ sequence, finishReason }) => [sequence.said.map(({ id }) => id), finishReason]),
    [[[5, 6], 'stop']],
  );
  assert.equal(scheduler.schedule(), null);
});

test('stop and abort meet the sequence and the job that are named, and are harmless for what has left', () => {
  const scheduler = scheduling();
  scheduler.submit(1, [asked(1), asked(1, { index: 1 })], FOREVER);
  scheduler.submit(2, [asked(2)], FOREVER);
  assert.equal(scheduler.stop(1, 0), null, 'what waits is not running');
  step(scheduler);
  assert.equal(scheduler.stop(2, 1), null, 'another job has one of that number');
  const stopped = scheduler.stop(1, 1);
  assert.deepEqual([stopped?.asked.jobId, stopped?.asked.index, stopped?.said.length], [1, 1, 1]);
  assert.equal(scheduler.stop(1, 1), null);
  assert.deepEqual(scheduler.slotsUsed, 2);
  scheduler.abort(1);
  scheduler.abort(1);
  assert.deepEqual(step(scheduler).jobs, [2]);
  assert.deepEqual([scheduler.lanesWaiting, scheduler.lanesRunning, scheduler.slotsUsed], [0, 0, 0]);
});

test('jobs that run out of time leave, running or not; one that was answered does not expire any more', () => {
  const scheduler = scheduling({ lanesMax: 2 });
  const within = (deadlineAtMs: number) => ({ deadlineAtMs, startByMs: Number.POSITIVE_INFINITY });
  scheduler.submit(1, [asked(1, { maxNewTokens: 1 })], within(10));
  scheduler.submit(2, [asked(2)], within(20));
  scheduler.submit(3, [asked(3)], within(30));
  assert.equal(step(scheduler).done.length, 1);
  scheduler.settle(1);
  assert.deepEqual(scheduler.expire(19), []);
  assert.deepEqual(scheduler.expire(30), [
    { jobId: 2, limit: 'deadline' },
    { jobId: 3, limit: 'deadline' },
  ]);
  assert.deepEqual([scheduler.lanesWaiting, scheduler.lanesRunning, scheduler.slotsUsed], [0, 0, 0]);
});
