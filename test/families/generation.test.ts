/**
 * What a prompt is continued with is what scoring says of the whole text, and does not show what else was in the batch: int8 to the last
 * bit, float32 within the order of its sums. Prompts are pieces of the golden texts, so that depths are real.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Budget } from '../../src/engine/protocol.js';
import { Generation } from '../../src/families/generation.js';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import type { Precision } from '../../src/models/manifest.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import type { GenerateLimits } from '../../src/scheduler/generate-scheduler.js';
import { type Random, withSeed } from '../seed.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';
import { type Continued, type Continuing, continueAll, POOLS } from './generating.js';
import { MODEL_BUDGET, ROOMY, scoreAlone } from './scoring.js';

const SEED = 'PONDER_GENERATE_SEED';
const FLOAT32_TOLERANCE = 1e-5;

interface Opened {
  readonly scorer: UniversalTransformer;
  readonly family: Generation;
}

let backend: Backend;
const opened = new Map<Precision, Opened>();
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  for (const precision of ['int8', 'float32'] as const) {
    const model = await shippedModel(precision);
    const scorer = await UniversalTransformer.open(backend, model, ROOMY);
    opened.set(precision, { scorer, family: new Generation(backend, model, scorer, POOLS) });
  }
});
after(() => {
  for (const { scorer, family } of opened.values()) {
    family.release();
    scorer.release();
  }
  backend.release();
  assert.equal(backend.liveHandles(), 0);
});

const corpus = Int32Array.from(goldenTexts().flatMap(({ ids }) => ids));

function randomBudget(random: Random): Budget {
  const maxSteps = random.chance(0.6) ? 8 : random.int(1, 8);
  return {
    maxSteps,
    minSteps: random.chance(0.8) ? 1 : random.int(1, maxSteps),
    threshold: random.chance(0.7) ? MODEL_BUDGET.threshold : 0.05 + 0.95 * random.next(),
  };
}

function randomPrompt(random: Random, promptMax: number, newMax: number): Continuing & { readonly budget: Budget } {
  const length = random.chance(0.3) ? random.int(0, 3) : random.int(0, promptMax);
  const start = random.int(0, corpus.length - length);
  return {
    prompt: corpus.slice(start, start + length),
    budget: randomBudget(random),
    maxNewTokens: random.chance(0.2) ? random.int(0, 1) : random.int(2, newMax),
    temperature: random.pick([0, 0, 0.7, 1, 1.5]),
    topP: random.pick([1, 1, 0.9, 0.3]),
    seed: random.int(0, 1_000_000),
    topCount: random.pick([0, 0, 1, 5, 20]),
    promptLogprobs: random.chance(0.5),
    stopIds: new Set(random.chance(0.3) ? Array.from({ length: 200 }, () => random.int(0, 8191)) : []),
    submitBefore: random.int(0, 20),
  };
}

/** As tight as lets the longest in; the pools of the families hold no more. */
function randomLimits(random: Random, prompts: readonly Continuing[]): GenerateLimits {
  const positions = Math.max(...prompts.map(({ prompt, maxNewTokens = 0 }) => prompt.length + maxNewTokens));
  const rowsMax = random.int(positions + 1, 3 * positions + 1);
  return {
    rowsMax,
    lanesMax: random.pick([1, 2, 3, 64]),
    slotsMax: random.int(positions + 2, POOLS.slots),
    cacheRowsMax: random.int(positions * 8, POOLS.cacheRows),
    finishRowsMax: random.pick([1, 16, 100, 512]),
  };
}

function assertSame(a: Continued, b: Continued, what: string): void {
  for (const field of ['ids', 'depths', 'remainders', 'logprobs', 'topIds', 'topLogprobs', 'prompt'] as const)
    assert.deepEqual(a[field], b[field], `${what}: ${field}`);
  assert.deepEqual(
    [a.finishReason, a.cacheRows, a.positionSteps],
    [b.finishReason, b.cacheRows, b.positionSteps],
    what,
  );
}

function assertClose(a: ArrayLike<number>, b: ArrayLike<number>, tolerance: number, what: string): void {
  assert.equal(a.length, b.length, what);
  Array.from(a).forEach((value, i) => {
    const off = Math.abs(value - (b[i] as number));
    assert.ok(off <= tolerance, `${what}[${i}] differs by ${off}`);
  });
}

/** Against scoring the prompt and what was said in one window. */
async function assertScored(
  precision: Precision,
  asked: ReturnType<typeof randomPrompt>,
  said: Continued,
): Promise<void> {
  const { scorer } = opened.get(precision) as Opened;
  const ids = Int32Array.from([...asked.prompt, ...said.ids]);
  if (ids.length === 0) return;
  const { topCount = 0, budget } = asked;
  const scored = await scoreAlone(scorer, { ids, budget, topCount });
  const from = asked.prompt.length;
  const tolerance = precision === 'int8' ? 0 : FLOAT32_TOLERANCE;
  const what = `${from} tokens and ${said.ids.length} new ones, ${JSON.stringify(budget)}`;
  assert.deepEqual(said.depths, Array.from(scored.depths.subarray(from)), `${what}: depths`);
  assertClose(said.logprobs, scored.logprobs.subarray(from), tolerance, `${what}: logprobs`);
  assertClose(said.remainders, scored.remainders.subarray(from), tolerance, `${what}: remainders`);
  assertClose(said.topLogprobs, scored.topLogprobs.subarray(from * topCount), tolerance, `${what}: topLogprobs`);
  if (said.prompt !== null) {
    assert.deepEqual(said.prompt.depths, Array.from(scored.depths.subarray(0, from)), `${what}: depths of the prompt`);
    assertClose(said.prompt.logprobs, scored.logprobs.subarray(0, from), tolerance, `${what}: logprobs of the prompt`);
  }
  // The last new token is never read, and a prompt that is only scored has no position past its last token.
  assert.equal(said.positionSteps, scored.positionSteps, `${what}: steps`);
}

async function trial(precision: Precision, random: Random, count: number, promptMax: number, newMax: number) {
  const { family } = opened.get(precision) as Opened;
  const prompts = Array.from({ length: count }, () => randomPrompt(random, promptMax, newMax));
  const batched = await continueAll(family, prompts, randomLimits(random, prompts));
  for (const [i, asked] of prompts.entries()) {
    const said = batched[i] as Continued;
    if (precision === 'int8') {
      const [alone] = await continueAll(family, [asked]);
      assertSame(said, alone as Continued, `sequence ${i} of ${prompts.map(({ prompt }) => prompt.length)}`);
    }
    await assertScored(precision, asked, said);
  }
}

const replay = process.env[SEED];
const seeds = (first: number, count: number) =>
  replay === undefined ? Array.from({ length: count }, (_, i) => first + i) : [Number(replay)];

test('int8: a sequence alone, in any company, and scored as a whole is the same to the last bit', async () => {
  for (const seed of seeds(100, 8)) await withSeed(seed, SEED, (random) => trial('int8', random, 8, 30, 20));
});

test('int8: the same of long prompts', async () => {
  for (const seed of seeds(200, 2)) await withSeed(seed, SEED, (random) => trial('int8', random, 4, 400, 40));
});

test('float32: depths equal those of scoring, log-probabilities within 1e-5', async () => {
  for (const seed of seeds(300, 3)) await withSeed(seed, SEED, (random) => trial('float32', random, 6, 60, 20));
});

test('a prompt may fill the context, and a sequence may end with it', async () => {
  const { family } = opened.get('int8') as Opened;
  const [scored, continued] = await continueAll(family, [
    { prompt: corpus.slice(0, 512), maxNewTokens: 0, promptLogprobs: true },
    { prompt: corpus.slice(0, 500), maxNewTokens: 12 },
  ]);
  assert.equal(scored?.prompt?.logprobs.length, 512);
  assert.equal(scored?.cacheRows, 512, 'a row a position: nobody looks at a depth that is over');
  assert.equal(continued?.ids.length, 12);
  assert.ok(scored?.prompt?.logprobs.every((logprob) => logprob < 0 && logprob > -30));
});

test('cache rows: N + 1 of a position that others follow, or the depths that there are', async () => {
  const { family } = opened.get('int8') as Opened;
  const prompt = corpus.slice(0, 30);
  const budget = { ...MODEL_BUDGET, maxSteps: 4 };
  const [said] = await continueAll(family, [{ prompt, maxNewTokens: 10, promptLogprobs: true, budget }]);
  assert.ok(said?.prompt);
  // The last position decides the last token, and nothing follows it.
  const followed = [...said.prompt.depths, ...said.depths.slice(0, -1)];
  const rows = followed.reduce(
    (sum, depth) => sum + Math.min(depth + 1, budget.maxSteps),
    said.depths.at(-1) as number,
  );
  assert.equal(said.cacheRows, rows);
});

test('the token chosen has the very float that it has among the best', async () => {
  const { family } = opened.get('int8') as Opened;
  const prompt = corpus.slice(40, 60);
  const [best, drawn] = await continueAll(family, [
    { prompt, topCount: 5 },
    { prompt, topCount: 20, temperature: 1, topP: 0.5, seed: 7 },
  ]);
  assert.ok(best && drawn);
  best.ids.forEach((id, t) => {
    assert.equal(best.topIds[5 * t], id);
    assert.equal(best.topLogprobs[5 * t], best.logprobs[t]);
  });
  let found = 0;
  drawn.ids.forEach((id, t) => {
    const rank = drawn.topIds.slice(20 * t, 20 * t + 20).indexOf(id);
    if (rank < 0) return;
    found += 1;
    assert.equal(drawn.topLogprobs[20 * t + rank], drawn.logprobs[t]);
  });
  assert.ok(found > 0);
});
