/** The device's side of translation on an emulated device: float16 graphs on their functions, through the stage as the engine runs it. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Budget, SentenceResult, TranslateJob } from '../../src/engine/protocol.js';
import { type ResidentTranslateLimits, ResidentTranslateStage } from '../../src/engine/resident-translate-stage.js';
import {
  openTranslationDevice,
  ResidentTranslation,
  type TranslationDevice,
} from '../../src/families/resident-translation.js';
import type { ModelDescription } from '../../src/models/description.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { EmulatedDevice } from '../emulated-device.js';
import {
  goldenSentences,
  MAX_NEW_TOKENS,
  MAX_STEPS,
  MODEL_BUDGET,
  openTranslation,
  sentence,
  translateAll,
  translationModel,
} from './translating.js';

const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const CONTEXT = 128;
const LIMITS: ResidentTranslateLimits = {
  encoder: { rowsMax: 128, lanesMax: 8, slotsMax: 256, finishRowsMax: 128, flatRows: 64, stepsMax: 3 },
  memoryRows: 160,
  seats: { seatsMax: 6, cacheRowsMax: 1500, stepsMax: 4 },
  decoder: { rowsMax: 24, cacheRowsMax: 3000 },
};

const golden = goldenSentences();
let backend: Backend;
let device: EmulatedDevice;
let model: ModelDescription;
let opened: TranslationDevice;
let family: ResidentTranslation;
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  device = new EmulatedDevice(backend);
  model = await translationModel('int8');
  opened = openTranslationDevice(device, model);
  family = new ResidentTranslation(opened, {
    ...LIMITS,
    cohorts: 2,
    contextTokens: CONTEXT,
    maxSteps: MAX_STEPS,
    bosId: model.bosId,
  });
});
after(async () => {
  family.release();
  opened.release();
  assert.equal(backend.liveHandles(), 2, 'only the environment and its memory are left');
  await backend.release();
});

interface Wanted {
  readonly sentences: readonly (readonly number[])[];
  readonly beam?: number;
  readonly encoderBudget?: Budget;
  readonly decoderBudget?: Budget;
  readonly streamTokens?: boolean;
  /** Turns after which it is submitted, and aborted. */
  readonly submitAt?: number;
  readonly abortAt?: number;
}

interface Translated {
  readonly results: SentenceResult[];
  /** Ids of the tokens that were streamed. */
  readonly tokens: number[];
}

async function translate(jobs: readonly Wanted[], cohorts = 2): Promise<Translated[]> {
  const { id, maxSteps, bosId, eosId } = model;
  const { encoder, seats, decoders } = family;
  const stage = new ResidentTranslateStage(
    { id, maxSteps, bosId, eosId, contextTokens: CONTEXT, encoder, seats, decoders: decoders.slice(0, cohorts) },
    LIMITS,
  );
  const all = jobs.map(() => ({ results: [] as SentenceResult[], tokens: [] as number[] }));
  for (let turn = 0, quiet = 0; quiet < 3; turn++) {
    jobs.forEach((wanted, jobId) => {
      if ((wanted.submitAt ?? 0) === turn) stage.submit(jobOf(jobId, wanted), FOREVER);
      if (wanted.abortAt === turn) stage.abort(jobId);
    });
    const done = await stage.turn(() => turn);
    quiet = done === null && jobs.every(({ submitAt = 0 }) => submitAt <= turn) ? quiet + 1 : 0;
    for (const { jobId, message } of done?.messages ?? []) {
      const { results, tokens } = all[jobId] as Translated;
      if (message.type === 'sentence') results[message.index] = message.result;
      else if (message.type === 'token') tokens.push(message.id);
      const wanted = jobs[jobId] as Wanted;
      assert.ok(wanted.abortAt === undefined || turn <= wanted.abortAt, 'a job that has left is not answered');
    }
  }
  const { lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed } = stage.gauges();
  const left = [lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed, stage.memoryRowsUsed];
  assert.deepEqual(left, [0, 0, 0, 0, 0], 'everything has been given back');
  const [encoderStage, decoderStage] = stage.telemetry();
  assert.ok(encoderStage !== undefined && decoderStage !== undefined);
  const halted = decoderStage.haltedAtStep.reduce((sum, count) => sum + count, 0);
  assert.ok(encoderStage.steps > 0 && decoderStage.activeRows >= halted);
  return all;
}

function jobOf(id: number, wanted: Wanted): TranslateJob {
  return {
    kind: 'translate',
    id,
    model: model.id,
    sentences: wanted.sentences.map((ids) => Int32Array.from(ids)),
    encoderBudget: wanted.encoderBudget ?? MODEL_BUDGET,
    decoderBudget: wanted.decoderBudget ?? MODEL_BUDGET,
    beam: wanted.beam ?? 1,
    lengthPenalty: 1,
    maxNewTokens: wanted.sentences.map(() => MAX_NEW_TOKENS),
    streamTokens: wanted.streamTokens ?? false,
    submittedAtMs: 0,
    deadlineAtMs: null,
  };
}

/** A job a sentence, each submitted a few turns after the last. */
const ALL: readonly Wanted[] = golden.map(({ source_ids }, i) => ({ sentences: [source_ids], submitAt: 2 * i }));

/** Positions of `a` that differ from `b`, of those that both have. */
function differing(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).filter((value, i) => i < b.length && value !== b[i]).length;
}

let together: Promise<SentenceResult[]> | null = null;
function translatedTogether(): Promise<SentenceResult[]> {
  together ??= translate(ALL).then((all) => all.map(({ results }) => results[0] as SentenceResult));
  return together;
}

/** A best token this much better than the second is the best in half precision too. */
const DECIDED = 0.1;
const ARITHMETIC = 0.03;

test('golden sentences, in two cohorts that refill: tokens, depths and log-probabilities are those of PyTorch', async () => {
  const results = await translatedTogether();
  let positions = 0;
  let otherDepths = 0;
  golden.forEach(({ source, ids, logprobs, gap, margin, encoder_depth, decoder_depth }, i) => {
    const { encoderDepths, encoderSteps, hypotheses, decoderSteps } = results[i] as SentenceResult;
    const best = hypotheses[0];
    assert.ok(best !== undefined);
    const said = [...best.ids, ...(best.finishReason === 'stop' ? [model.eosId] : [])];
    if (gap > DECIDED) assert.deepEqual(said, ids, source);
    const inEncoder = differing(encoderDepths, encoder_depth);
    const inDecoder = said.join() === ids.join() ? differing(best.depths, decoder_depth) : 0;
    // A halting sum that comes near the threshold may pass it a step earlier or later in half precision.
    if (inEncoder + inDecoder > 0) assert.ok(margin < 0.01, `${source}: depths ${encoderDepths}, ${best.depths}`);
    otherDepths += inEncoder + inDecoder;
    positions += encoderDepths.length + best.depths.length;
    if (inEncoder + inDecoder === 0 && said.join() === ids.join()) {
      best.logprobs.forEach((logprob, at) => {
        const off = Math.abs(logprob - (logprobs[at] as number));
        assert.ok(off < ARITHMETIC, `${source}: log-probability ${at} differs by ${off}`);
      });
    }
    const sum = (depths: Uint8Array) => depths.reduce((total, depth) => total + depth, 0);
    assert.equal(encoderSteps, sum(encoderDepths));
    assert.equal(decoderSteps, sum(best.depths), 'the cost of greedy decoding is the sum of its depths');
  });
  assert.ok(otherDepths <= positions / 50, `${otherDepths} of ${positions}`);
});

test('one cohort and other company change nothing', async () => {
  const results = await translatedTogether();
  const few = ALL.slice(2, 7).reverse();
  const again = await translate(
    few.map(({ sentences }) => ({ sentences })),
    1,
  );
  again.forEach(({ results: [alone] }, i) => {
    const batched = results[6 - i] as SentenceResult;
    assert.ok(alone !== undefined);
    assert.deepEqual(alone.encoderDepths, batched.encoderDepths);
    assert.deepEqual(alone.hypotheses[0]?.ids, batched.hypotheses[0]?.ids);
    assert.deepEqual(alone.hypotheses[0]?.depths, batched.hypotheses[0]?.depths);
    alone.hypotheses[0]?.logprobs.forEach((logprob, at) => {
      assert.ok(Math.abs(logprob - (batched.hypotheses[0]?.logprobs[at] as number)) < 2e-3);
    });
  });
});

test('a beam of 4, beside greedy sentences of the same job or another: most translations are those of the CPU', async () => {
  const [beam, greedy] = await translate([
    { sentences: golden.slice(0, 6).map(({ source_ids }) => source_ids), beam: 4 },
    { sentences: [golden[1]?.source_ids ?? []], streamTokens: true },
  ]);
  const cpu = await openTranslation(backend, 'int8');
  try {
    const wanted = golden.slice(0, 6).map(({ source_ids }) => sentence(source_ids, { beam: 4 }));
    const expected = await translateAll(cpu, wanted);
    const same = beam?.results.filter(({ hypotheses }, i) => {
      const scores = hypotheses.map(({ score }) => score);
      assert.deepEqual(
        scores,
        scores.toSorted((a, b) => b - a),
      );
      assert.equal(hypotheses.length, 4);
      return hypotheses[0]?.ids.join() === expected[i]?.hypotheses[0]?.ids.join();
    });
    assert.ok((same?.length ?? 0) >= 5, `${same?.length} of 6 best translations`);
  } finally {
    cpu.release();
  }
  assert.deepEqual(greedy?.tokens, golden[1]?.ids.slice(0, -1), 'streamed as they were decided');
});

test('min_steps = max_steps is the fixed-depth model; budgets of encoder and decoder are apart', async () => {
  const fixed: Budget = { maxSteps: MAX_STEPS, minSteps: MAX_STEPS, threshold: 0.99 };
  const two: Budget = { maxSteps: 2, minSteps: 2, threshold: 0.99 };
  const [both] = await translate([
    { sentences: [golden[0]?.source_ids ?? []], encoderBudget: two, decoderBudget: fixed },
    { sentences: [golden[1]?.source_ids ?? []], submitAt: 3 },
  ]);
  assert.ok(both?.results[0]?.encoderDepths.every((depth) => depth === 2));
  assert.ok(both?.results[0]?.hypotheses[0]?.depths.every((depth) => depth === MAX_STEPS));
});

test('aborted while it waits, encodes or decodes, a job gives everything back and the others are what they were', async () => {
  const results = await translatedTogether();
  const long = golden[9]?.source_ids ?? [];
  const aborts = [0, 1, 2, 4, 6, 9, 14, 20].map((abortAt) => ({ sentences: [long, long], abortAt, beam: 2 }));
  const all = await translate([{ sentences: [golden[3]?.source_ids ?? []] }, ...aborts]);
  const [kept] = all[0]?.results ?? [];
  assert.deepEqual(kept?.hypotheses[0]?.ids, results[3]?.hypotheses[0]?.ids);
  for (const { results: none } of all.slice(1)) assert.equal(none.length, 0);
});

test('a sentence longer than the context is refused', async () => {
  const ids = new Array(CONTEXT + 1).fill(5);
  await assert.rejects(translate([{ sentences: [ids] }]), { code: 'INVALID_REQUEST' });
});
