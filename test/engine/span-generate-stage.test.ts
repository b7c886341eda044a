/** Continuing texts block by block, over a family that rates tokens as generation-oracle.ts says and watches what each cache has seen. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { GenerateJob, SequenceResult, SpanBlockResult } from '../../src/engine/protocol.js';
import { SpanGenerateStage } from '../../src/engine/span-generate-stage.js';
import type { StageMessage } from '../../src/engine/stage.js';
import type { SpanBlocks } from '../../src/families/adaptive-span.js';
import type { SpanDescription } from '../../src/models/description.js';
import { type Continuing, continueAlone, logprobsAfter } from '../generation-oracle.js';
import { BOS, EOS, ranked, VOCABULARY } from '../translation-oracle.js';

const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const LIMITS = { lanesMax: 3, rowsMax: 64, blockTokens: 32 };
/** One layer of two heads, a group each. */
const SPAN: SpanDescription = {
  kind: 'adaptive',
  spanMax: 64,
  ramp: 32,
  headWidth: 8,
  tokenMultiplications: 1000,
  keys: [[40, 60]],
  groups: [
    [
      { heads: [0], span: 48 },
      { heads: [1], span: 64 },
    ],
  ],
};
const FIXED_DEPTH = { maxSteps: 1, minSteps: 1, threshold: 1 };

class FakeSpan {
  /** The tokens that each cache was made from. */
  private readonly read = new Map<number, readonly number[]>();
  readonly blocks: number[] = [];
  readonly reaches: number[] = [];

  async advance({ lanes, blockTokens, reach }: SpanBlocks): Promise<SpanBlockResult[]> {
    assert.ok(lanes.length > 0 && blockTokens > 1, 'a block is never of one token');
    assert.ok(lanes.length * blockTokens <= LIMITS.rowsMax && lanes.length <= LIMITS.lanesMax);
    assert.equal(new Set(lanes.map(({ slot }) => slot)).size, lanes.length, 'a cache a lane');
    this.blocks.push(blockTokens);
    this.reaches.push(reach);
    return lanes.map(({ slot, startsAt, startId, done, left, request }) => {
      assert.deepEqual([startsAt, startId], [0, BOS]);
      const n = Math.min(blockTokens, left);
      const k = request.topCount;
      const text = Array.from(request.ids.subarray(0, done + n));
      // Position i reads the token before the one it predicts.
      const read = [BOS, ...text.slice(0, -1)];
      if (done > 0) assert.deepEqual(this.read.get(slot), read.slice(0, done), 'a cache holds what came before');
      this.read.set(slot, read);
      const rows = Array.from({ length: n }, (_, i) => logprobsAfter(text.slice(0, done + i)));
      const best = rows.map((row) => ranked(row).slice(0, k));
      return {
        logprobs: Float32Array.from(rows, (row, i) => row[text[done + i] as number] as number),
        topIds: Int32Array.from(best.flat()),
        topLogprobs: Float32Array.from(best.flatMap((ids, i) => ids.map((id) => rows[i]?.[id] as number))),
        spans: Float32Array.from(rows, (_, i) => done + i),
      };
    });
  }
}

function harness() {
  const family = new FakeSpan();
  let opened = 0;
  const open = () => {
    opened += 1;
    return family;
  };
  const stage = new SpanGenerateStage({ id: 'm', bosId: BOS, vocabularySize: VOCABULARY, span: SPAN, open }, LIMITS);
  const messages: StageMessage[] = [];
  const turn = async () => {
    const taken = await stage.turn(() => 5);
    if (taken !== null) messages.push(...taken.messages);
    return taken !== null;
  };
  const finishAll = async () => {
    for (let turns = 0; await turn(); turns++) assert.ok(turns < 5000, 'it comes to an end');
    const { lanesWaiting, lanesRunning, slotsUsed } = stage.gauges();
    assert.deepEqual([lanesWaiting, lanesRunning, slotsUsed], [0, 0, 0]);
  };
  const results = () => {
    const ends = messages.flatMap(({ message }) => (message.type === 'sequence' ? [message] : []));
    return new Map(ends.map(({ jobId, index, result }) => [`${jobId}.${index}`, result]));
  };
  return { family, stage, messages, turn, finishAll, results, opened: () => opened };
}

function job(id: number, prompts: readonly (readonly number[])[], changes: Partial<GenerateJob> = {}): GenerateJob {
  return {
    kind: 'generate',
    id,
    model: 'm',
    prompts: prompts.map((ids) => Int32Array.from(ids)),
    budget: FIXED_DEPTH,
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

function assertAlone(asked: Continuing, result: SequenceResult | undefined): void {
  assert.ok(result !== undefined, 'a sequence was lost');
  const alone = continueAlone(asked);
  const { prompt, maxNewTokens, promptLogprobs, topCount } = asked;
  assert.deepEqual([...result.tokens.ids], alone.ids);
  assert.deepEqual([...result.tokens.logprobs], alone.logprobs);
  assert.equal(result.finishReason, alone.finishReason);
  assert.equal(result.tokens.topIds.length, alone.ids.length * topCount);
  assert.deepEqual(
    [...result.tokens.spans],
    alone.ids.map((_, t) => prompt.length + t),
  );
  assert.equal(result.tokens.depths.length, 0);
  assert.equal(result.positions, prompt.length + alone.ids.length);
  assert.equal(result.firstTokenAtMs === null, maxNewTokens === 0);
  if (!promptLogprobs) assert.equal(result.prompt, null);
  else {
    const scores = Array.from(prompt, (id, i) => logprobsAfter(Array.from(prompt.subarray(0, i)))[id]);
    assert.deepEqual([...(result.prompt?.logprobs ?? [])], scores);
    assert.equal(result.prompt?.topIds.length, prompt.length * topCount);
    assert.deepEqual([...(result.prompt?.spans ?? [])], [...prompt.keys()]);
  }
}

const continuingArbitrary: fc.Arbitrary<Omit<Continuing, 'budget'>> = fc.record({
  prompt: fc.array(fc.integer({ min: 3, max: VOCABULARY - 1 }), { maxLength: 100 }).map((ids) => Int32Array.from(ids)),
  maxNewTokens: fc.integer({ min: 0, max: 12 }),
  temperature: fc.constantFrom(0, 0, 1),
  topP: fc.constantFrom(1, 0.5),
  seed: fc.nat(),
  topCount: fc.integer({ min: 0, max: 3 }),
  promptLogprobs: fc.boolean(),
  stopIds: fc.constantFrom(new Set<number>(), new Set([EOS])),
});

test('every sequence, in any company, says what it would say alone', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(continuingArbitrary, { minLength: 1, maxLength: 8 }), async (asked) => {
      const { stage, finishAll, results } = harness();
      asked.forEach(({ prompt, seed, topCount: topLogprobs, stopIds, ...same }, id) => {
        stage.submit(job(id, [[...prompt]], { ...same, seeds: [seed], topLogprobs, stopIds: [...stopIds] }), FOREVER);
      });
      await finishAll();
      asked.forEach((one, id) => {
        assertAlone({ ...one, budget: FIXED_DEPTH }, results().get(`${id}.0`));
      });
    }),
    { numRuns: 200 },
  );
});

test('a prompt in blocks, the last with the position that decides, then a token a block', async () => {
  const { stage, family, finishAll, opened } = harness();
  assert.equal(opened(), 0, 'caches that nobody needs take no memory');
  stage.submit(job(1, [new Array<number>(80).fill(7)], { maxNewTokens: 3 }), FOREVER);
  await finishAll();
  assert.deepEqual(family.blocks, [32, 32, 32, 2, 2]);
  assert.equal(opened(), 1);
});

test('a long prompt and new tokens of others take turns', async () => {
  const { stage, family, turn, finishAll } = harness();
  stage.submit(job(1, [[7]], { maxNewTokens: 12 }), FOREVER);
  await turn();
  stage.submit(job(2, [new Array<number>(300).fill(7)], { maxNewTokens: 0 }), FOREVER);
  await finishAll();
  assert.deepEqual(family.blocks.slice(1, 9), [2, 32, 2, 32, 2, 32, 2, 32]);
});

test('a job that streams: the scores of its prompt once, each token, and the whole', async () => {
  const { stage, messages, finishAll } = harness();
  stage.submit(job(1, [new Array<number>(50).fill(7)], { streamTokens: true, promptLogprobs: true }), FOREVER);
  await finishAll();
  assert.deepEqual(
    messages.map(({ message }) => message.type),
    ['prompt', ...new Array(5).fill('generated'), 'sequence'],
  );
});

test('sequences with different caps look different ways: they never share a block', async () => {
  const { stage, family, finishAll, results } = harness();
  stage.submit(job(1, [[7]], { spanCap: 8 }), FOREVER);
  stage.submit(job(2, [[7]]), FOREVER);
  await finishAll();
  assert.deepEqual([...new Set(family.reaches)].sort(), [48, 64]);
  assert.equal(results().size, 2);
});

test('stop answers one sequence as it stands, abort and expiry none; their caches are free', async () => {
  const { stage, messages, turn, finishAll } = harness();
  stage.submit(job(1, [[7], [8]], { maxNewTokens: 40 }), FOREVER);
  stage.submit(job(2, [[9]], { maxNewTokens: 40 }), { deadlineAtMs: 3, startByMs: Number.POSITIVE_INFINITY });
  for (let i = 0; i < 4; i++) await turn();
  stage.stop(1, 1);
  assert.equal(stage.gauges().slotsUsed, 2);
  assert.deepEqual(stage.expire(3), [{ jobId: 2, limit: 'deadline' }]);
  await turn();
  const [stopped] = messages;
  assert.ok(stopped?.message.type === 'sequence' && messages.length === 1);
  assert.deepEqual([stopped.message.index, stopped.message.result.finishReason], [1, 'stop']);
  assert.ok(stopped.message.result.tokens.ids.length > 0);
  stage.abort(1);
  await finishAll();
  assert.equal(messages.length, 1);
});

test('what it reports is what was computed', async () => {
  const { stage, finishAll } = harness();
  stage.submit(job(1, [new Array<number>(20).fill(7)], { maxNewTokens: 3 }), FOREVER);
  await finishAll();
  const [report] = stage.telemetry();
  assert.deepEqual([report?.stage, report?.steps, report?.activeRows], ['generate', 3, 23]);
  // Blocks of 32, 2 and 2, whose tokens each look at as many keys more; the fake's spans are the positions.
  const useful = 2 * Array.from({ length: 23 }, (_, i) => i).reduce((sum, span) => sum + span, 0);
  const computed = [32, 2, 2].reduce((sum, block) => sum + block * (48 + 64 + 2 * block), 0);
  assert.deepEqual([report?.keysUseful, report?.keysComputed], [useful, computed]);
});
