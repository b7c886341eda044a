/**
 * What was in the batch never shows in a result: int8 to the last bit, float32 within the order of its sums. Every trial draws its
 * windows from the golden texts (so that depths are real), budgets and limits; limits decide how lanes meet and when slots are refilled.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ScoreWindowResult } from '../../src/engine/protocol.js';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import type { Precision } from '../../src/models/manifest.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import type { SchedulerLimits } from '../../src/scheduler/scheduler.js';
import { type Random, withSeed } from '../seed.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';
import { MODEL_BUDGET, ROOMY, scoreAlone, scoreWindows, type Window } from './scoring.js';

const SEED = 'PONDER_BATCH_SEED';

let backend: Backend;
const families = new Map<Precision, UniversalTransformer>();
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  for (const precision of ['int8', 'float32'] as const) {
    families.set(precision, await UniversalTransformer.open(backend, await shippedModel(precision), ROOMY));
  }
});
after(() => {
  for (const family of families.values()) family.release();
  backend.release();
});

const corpus = Int32Array.from(goldenTexts().flatMap(({ ids }) => ids));

function randomWindow(random: Random, lengthMax: number): Window {
  const length = random.chance(0.3) ? random.int(1, Math.min(4, lengthMax)) : random.int(1, lengthMax);
  const start = random.int(0, corpus.length - length);
  const maxSteps = random.chance(0.6) ? 8 : random.int(1, 8);
  return {
    ids: corpus.slice(start, start + length),
    budget: {
      maxSteps,
      minSteps: random.chance(0.8) ? 1 : random.int(1, maxSteps),
      threshold: random.chance(0.7) ? MODEL_BUDGET.threshold : 0.05 + 0.95 * random.next(),
    },
    scoreFrom: random.chance(0.8) ? 0 : random.int(0, length - 1),
    topCount: random.chance(0.7) ? 0 : random.int(1, 20),
    submitBefore: random.int(0, 12),
  };
}

function randomLimits(random: Random, windows: readonly Window[]): SchedulerLimits {
  const longest = Math.max(...windows.map(({ ids }) => ids.length));
  return {
    rowsMax: random.int(longest, longest * 3),
    lanesMax: random.pick([1, 2, 3, 64]),
    slotsMax: random.int(longest, ROOMY.slotsMax),
    finishRowsMax: random.pick([1, 16, 100, 512]),
  };
}

function assertSameBits(batched: ScoreWindowResult, alone: ScoreWindowResult, what: string): void {
  const bits = (array: Float32Array | Uint8Array | Int32Array) =>
    Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('hex');
  for (const field of ['depths', 'remainders', 'logprobs', 'topIds', 'topLogprobs'] as const) {
    if (bits(batched[field]) === bits(alone[field])) continue;
    const at = Array.from(alone[field]).findIndex((value, i) => !Object.is(value, batched[field][i]));
    assert.fail(`${what}: ${field}[${at}] is ${batched[field][at]} in the batch and ${alone[field][at]} alone`);
  }
  assert.equal(batched.positionSteps, alone.positionSteps, what);
}

function assertClose(batched: ScoreWindowResult, alone: ScoreWindowResult, what: string): void {
  assert.deepEqual(batched.depths, alone.depths, `${what}: depths`);
  for (const field of ['logprobs', 'topLogprobs', 'remainders'] as const) {
    alone[field].forEach((value, i) => {
      const difference = Math.abs(value - (batched[field][i] as number));
      assert.ok(difference <= 1e-5, `${what}: ${field}[${i}] differs by ${difference}`);
    });
  }
}

async function trial(precision: Precision, random: Random, count: number, lengthMax: number): Promise<void> {
  const family = families.get(precision) as UniversalTransformer;
  const windows = Array.from({ length: count }, () => randomWindow(random, lengthMax));
  const limits = randomLimits(random, windows);
  const batched = await scoreWindows(family, windows, limits);
  for (const [i, window] of windows.entries()) {
    const alone = await scoreAlone(family, window);
    const { ids, budget } = window;
    const what = `window ${i} of ${windows.map((w) => w.ids.length)} (${ids.length} tokens, ${JSON.stringify(budget)}, ${JSON.stringify(limits)})`;
    const compare = precision === 'int8' ? assertSameBits : assertClose;
    compare(batched[i] as ScoreWindowResult, alone, what);
  }
}

const replay = process.env[SEED];
const seeds = (first: number, count: number) =>
  replay === undefined ? Array.from({ length: count }, (_, i) => first + i) : [Number(replay)];

test('int8: a window alone and among short ones is the same to the last bit', async () => {
  for (const seed of seeds(1000, 20)) await withSeed(seed, SEED, (random) => trial('int8', random, 12, 24));
});

test('int8: a window alone and among long ones is the same to the last bit', async () => {
  for (const seed of seeds(2000, 3)) await withSeed(seed, SEED, (random) => trial('int8', random, 5, 400));
});

test('float32: depths are equal and log-probabilities within 1e-5, in any company', async () => {
  for (const seed of seeds(3000, 4)) await withSeed(seed, SEED, (random) => trial('float32', random, 8, 60));
});
