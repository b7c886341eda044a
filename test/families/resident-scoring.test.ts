/** The device's side of scoring on an emulated device: float16 graphs on their functions, through the stage as the engine runs it. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Budget, ScoreWindowResult } from '../../src/engine/protocol.js';
import { ResidentScoreStage } from '../../src/engine/resident-score-stage.js';
import { openScoringGraphs, ResidentScoring, type ScoringGraphs } from '../../src/families/resident-scoring.js';
import type { ModelDescription } from '../../src/models/description.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import type { ResidentLimits } from '../../src/scheduler/resident-scheduler.js';
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
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  device = new EmulatedDevice(backend);
  model = await shippedModel('int8');
  graphs = openScoringGraphs(device, model);
});
after(async () => {
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
async function scoreAll(
  windows: readonly Window[],
  cohorts: number,
  limits = LIMITS,
): Promise<(ScoreWindowResult | null)[]> {
  const families = Array.from(
    { length: cohorts },
    () => new ResidentScoring(device, graphs, model, { ...limits, causal: true }),
  );
  const stage = new ResidentScoreStage({ id: model.id, maxSteps: model.maxSteps, families }, limits);
  const results: (ScoreWindowResult | null)[] = windows.map(() => null);
  try {
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
  } finally {
    for (const family of families) family.release();
  }
  return results;
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
