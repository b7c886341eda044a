/** The device's side of scoring on an emulated device: float16 graphs on their functions, through the stage as the engine runs it. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Budget, ScoreWindowResult } from '../../src/engine/protocol.js';
import { ResidentScoreStage } from '../../src/engine/resident-score-stage.js';
import { openScoringGraphs, ResidentScoring, type ScoringGraphs } from '../../src/families/resident-scoring.js';
import type { ModelDescription } from '../../src/models/description.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { ResidentLane, type ResidentLimits } from '../../src/scheduler/resident-scheduler.js';
import { EmulatedDevice } from '../emulated-device.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';
import { MODEL_BUDGET } from './scoring.js';

const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const LIMITS: ResidentLimits = {
  rowsMax: 256,
  lanesMax: 8,
  slotsMax: 512,
  finishRowsMax: 256,
  flatRows: 64,
  stepsMax: 3,
};

let backend: Backend;
let device: EmulatedDevice;
let model: ModelDescription;
let graphs: ScoringGraphs;
/** Captured once, used by every test: each leaves their tables empty. */
let families: readonly ResidentScoring[];
let handlesBefore: number;
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  device = new EmulatedDevice(backend);
  model = await shippedModel('int8');
  graphs = openScoringGraphs(device, model);
  handlesBefore = device.liveHandles();
  families = [0, 1].map(() => new ResidentScoring(device, graphs, model, { ...LIMITS, causal: true }));
});
after(async () => {
  assert.ok(device.liveHandles() > handlesBefore);
  for (const family of families) family.release();
  assert.equal(device.liveHandles(), handlesBefore, 'everything that was captured and bound is released');
  for (const graph of Object.values(graphs)) graph.release();
  assert.equal(backend.liveHandles(), 2, 'only the environment and its memory are left');
  await backend.release();
});

interface Window {
  readonly ids: readonly number[];
  readonly budget?: Budget;
  readonly scoreFrom?: number;
  readonly topLogprobs?: number;
  /** Turns after which it is submitted, and aborted. */
  readonly submitAt?: number;
  readonly abortAt?: number;
}

/** What came of each window; null for one that was aborted. */
async function scoreAll(windows: readonly Window[], cohorts: number): Promise<(ScoreWindowResult | null)[]> {
  const stage = new ResidentScoreStage(
    { id: model.id, maxSteps: model.maxSteps, families: families.slice(0, cohorts) },
    LIMITS,
  );
  const results: (ScoreWindowResult | null)[] = windows.map(() => null);
  for (let turn = 0, quiet = 0; quiet < 3; turn++) {
    windows.forEach(({ ids, budget = MODEL_BUDGET, scoreFrom = 0, topLogprobs = 0, submitAt = 0, abortAt }, id) => {
      const window = { ids: Int32Array.from(ids), scoreFrom };
      const job = { kind: 'score', id, model: model.id, windows: [window], budget, topLogprobs } as const;
      if (submitAt === turn) stage.submit({ ...job, submittedAtMs: 0, deadlineAtMs: null }, FOREVER);
      if (abortAt === turn) stage.abort(id);
    });
    const done = await stage.turn(() => turn);
    const late = windows.some(({ submitAt = 0 }) => submitAt > turn);
    quiet = done === null && !late ? quiet + 1 : 0;
    for (const { message } of done?.messages ?? []) {
      assert.equal(message.type, 'window');
      if (message.type === 'window') results[message.jobId] = message.result;
    }
  }
  assert.deepEqual([stage.gauges().lanesRunning, stage.gauges().slotsUsed], [0, 0], 'everything has left');
  return results;
}

async function scoreSome(windows: readonly Window[], cohorts = 1): Promise<ScoreWindowResult[]> {
  const results = await scoreAll(windows, cohorts);
  return results.map((result, i) => {
    assert.ok(result !== null, `window ${i} was lost`);
    return result;
  });
}

const ARITHMETIC = 0.03;

test('golden texts, in two cohorts that refill: depths and log-probabilities are those of PyTorch', async () => {
  const texts = goldenTexts()
    .filter(({ ids }) => ids.length <= 128)
    .slice(0, 12);
  const results = await scoreAll(
    texts.map(({ ids }, i) => ({ ids, submitAt: i % 5 })),
    2,
  );
  let tokens = 0;
  let otherDepths = 0;
  texts.forEach((text, i) => {
    const result = results[i] as ScoreWindowResult;
    text.ids.forEach((_, position) => {
      tokens += 1;
      // A halting sum that comes near the threshold may pass it a step earlier or later in half precision.
      if (result.depths[position] !== text.depth[position]) {
        otherDepths += 1;
        assert.ok(
          (text.margin[position] as number) < 0.01,
          `text ${i}, position ${position}: depth ${result.depths[position]}`,
        );
        return;
      }
      const difference = Math.abs((result.logprobs[position] as number) - (text.logprobs[position] as number));
      assert.ok(difference < ARITHMETIC, `text ${i}, position ${position}: ${difference}`);
    });
    const steps = result.depths.reduce((sum, depth) => sum + depth, 0);
    assert.equal(result.positionSteps, steps, 'the cost of a lane is the sum of its depths');
  });
  assert.ok(otherDepths <= tokens / 100, `${otherDepths} of ${tokens}`);
});

const SHORT = goldenTexts().filter(({ ids }) => ids.length >= 8 && ids.length <= 48);
/** A batch changes sums in their last bits, of half precision here. */
const COMPANY = 2e-3;

let compared = 0;

/** Where a halting sum comes near the threshold, depth may differ, and all that comes after it a little more. */
function expectAlike(found: ScoreWindowResult, wanted: ScoreWindowResult, margin: readonly number[], from = 0): void {
  assert.equal(found.logprobs.length, wanted.logprobs.length - from);
  for (let i = 0; i < found.logprobs.length; i++) {
    const near = (margin[from + i] as number) < 0.01;
    if (near && found.depths[i] !== wanted.depths[from + i]) return;
    compared += 1;
    assert.equal(found.depths[i], wanted.depths[from + i], `position ${from + i}`);
    const difference = Math.abs((found.logprobs[i] as number) - (wanted.logprobs[from + i] as number));
    assert.ok(difference < COMPANY, `position ${from + i}: ${difference}`);
    const remainders = Math.abs((found.remainders[i] as number) - (wanted.remainders[from + i] as number));
    assert.ok(remainders < 0.01, `remainder of position ${from + i}: ${remainders}`);
  }
}

test('a lane alone, the end of it, and in company that comes and is aborted: the same depths and log-probabilities', async () => {
  const texts = SHORT.slice(0, 4);
  const windows = texts.map(({ ids }) => ({ ids }));
  const company = await scoreSome(windows);
  for (const [i, { ids, margin }] of texts.slice(0, 2).entries()) {
    const [alone] = (await scoreSome([{ ids }])) as [ScoreWindowResult];
    expectAlike(alone, company[i] as ScoreWindowResult, margin);
    const from = Math.floor(ids.length / 2);
    const [end] = (await scoreSome([{ ids, scoreFrom: from }])) as [ScoreWindowResult];
    expectAlike(end, alone, margin, from);
    assert.equal(end.positionSteps, alone.positionSteps, 'what is not scored is computed all the same');
  }
  // Aborted before, during and after launches, once with rows that are renewed in the step after; others take their slots.
  const passing = [1, 2, 3, 4, 5].map((abortAt, i) => {
    return { ids: (texts[i % texts.length] as (typeof texts)[0]).ids, submitAt: abortAt > 2 ? 1 : 0, abortAt };
  });
  const late = windows.map((window, i) => ({ ...window, submitAt: i + 1 }));
  const beside = await scoreAll([...late, ...passing], 2);
  for (const [i, { margin }] of texts.entries())
    expectAlike(beside[i] as ScoreWindowResult, company[i] as ScoreWindowResult, margin);
  assert.equal(beside[texts.length], null, 'aborted after the first launch');
  assert.ok(compared > 120, `${compared} of 138 positions were compared`);
});

test('candidates: best first, no better than certain, and the target among them has its own log-probability', async () => {
  const texts = SHORT.slice(0, 3);
  const wanted = [5, 0, 2];
  const results = await scoreSome(texts.map(({ ids }, i) => ({ ids, topLogprobs: wanted[i] as number })));
  let found = 0;
  for (const [i, { logprobs, topIds, topLogprobs }] of results.entries()) {
    const k = wanted[i] as number;
    const ids = (texts[i] as (typeof texts)[0]).ids;
    assert.deepEqual([topIds.length, topLogprobs.length], [ids.length * k, ids.length * k]);
    for (let at = 0; at < ids.length && k > 0; at++) {
      const [named, best] = [topIds.subarray(at * k, at * k + k), topLogprobs.subarray(at * k, at * k + k)];
      assert.equal(new Set(named).size, k, 'each candidate once');
      assert.deepEqual(best, best.toSorted().reverse());
      assert.ok(best.reduce((sum, logprob) => sum + Math.exp(logprob), 0) <= 1 + 1e-4);
      const logprob = logprobs[at] as number;
      assert.ok(logprob <= (best[0] as number) + 1e-4, 'nothing is better than the best');
      const place = named.indexOf(ids[at] as number);
      if (place < 0) continue;
      found += 1;
      assert.ok(Math.abs((best[place] as number) - logprob) < 1e-4);
    }
  }
  assert.ok(found > 5, `${found} targets were among the best`);
});

test('budgets: one step, at least three, all of them, and half of the threshold, side by side', async () => {
  const [{ ids }] = SHORT as [(typeof SHORT)[0]];
  const budgets = [
    MODEL_BUDGET,
    { ...MODEL_BUDGET, maxSteps: 1 },
    { ...MODEL_BUDGET, minSteps: 3 },
    { ...MODEL_BUDGET, minSteps: 8 },
    { ...MODEL_BUDGET, threshold: 0.5 },
  ];
  const results = await scoreSome(budgets.map((budget) => ({ ids, budget })));
  const [model8, one, three, all, half] = results as [ScoreWindowResult, ...ScoreWindowResult[]] & ScoreWindowResult[];
  const every = (result: ScoreWindowResult | undefined, is: (depth: number) => boolean) =>
    assert.ok(result?.depths.every(is), String(result?.depths));
  every(one, (depth) => depth === 1);
  assert.ok(
    one?.remainders.every((remainder) => Math.abs(remainder - 1) < 1e-6),
    'what halts at once has all of its weight left',
  );
  every(three, (depth) => depth >= 3);
  every(all, (depth) => depth === 8);
  assert.ok((half as ScoreWindowResult).positionSteps < model8.positionSteps);
  for (const { depths, positionSteps } of results)
    assert.equal(
      positionSteps,
      depths.reduce((sum, depth) => sum + depth, 0),
    );
});

test('more rows than were captured: an error, and no results of an earlier launch', () => {
  const [family] = families as [ResidentScoring];
  const nothing = { finish: [], begin: [], rowsBefore: 0, renewedRows: 0, steps: 1 };
  assert.throws(() => family.enqueue({ ...nothing, activeRows: 257 }), /257 rows exceed the largest bucket of 256/);
  const request = { jobId: 1, index: 0, ids: new Int32Array(600), scoreFrom: 0, topCount: 0, budget: MODEL_BUDGET };
  const lanes = [0, 1].map((id) => new ResidentLane(request, id, 0));
  assert.throws(() => family.enqueue({ ...nothing, finish: lanes, activeRows: 0, steps: 0 }), RangeError);
});
