/**
 * The shipped translation model: PyTorch's translations (golden.json, float32) on both backends; in int8 the same bits in any company,
 * with one thread and two; and budgets of encoder and decoder apart. Every trial draws its sentences from the golden ones.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Budget, SentenceResult } from '../../src/engine/protocol.js';
import type { TranslateLimits } from '../../src/engine/translate-stage.js';
import type { Translation } from '../../src/families/translation.js';
import type { Backend } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { type Random, withSeed } from '../seed.js';
import { type ChildReport, type ChildSettings, translateInChild } from './translate-child.js';
import {
  goldenSentences,
  MAX_STEPS,
  MODEL_BUDGET,
  openTranslation,
  ROOMY,
  type Sentence,
  sentence,
  translateAll,
  translateAlone,
} from './translating.js';

const SEED = 'PONDER_TRANSLATION_SEED';
/** A depth or a token may differ only where PyTorch's own margin is below this. */
const TIE = 1e-5;
const LOGPROB_TOLERANCE = 1e-4;
/** golden.json rounds to four decimals. */
const ROUNDING = 5.1e-5;

const golden = goldenSentences();

let backend: Backend;
let family: Translation;
before(async () => {
  backend = openOrtCapi({ threads: 2, spin: false });
  family = await openTranslation(backend, 'int8');
});
after(() => {
  family.release();
  backend.release();
});

const reports = new Map<string, Promise<ChildReport>>();
/** One child a setting, whichever tests look at it; one at a time, since each may take all cores. */
let last: Promise<unknown> = Promise.resolve();
function translated(settings: ChildSettings): Promise<ChildReport> {
  const key = JSON.stringify(settings);
  const known = reports.get(key);
  if (known !== undefined) return known;
  const report = last.then(() => translateInChild(settings));
  last = report.catch(() => {});
  reports.set(key, report);
  return report;
}

for (const name of ['ort-capi', 'ort-node'] as const) {
  test(`${name}, float32: tokens, depths and log-probabilities of PyTorch`, async () => {
    const { greedy } = await translated({ backend: name, precision: 'float32', threads: 2 });
    golden.forEach(({ source, ids, logprobs, encoder_depth, decoder_depth, margin, gap }, i) => {
      assert.ok(margin > TIE && gap > TIE, `${source}: a golden sentence is decided`);
      const { encoderDepths, hypotheses } = greedy[i] as SentenceResult;
      const [best] = hypotheses;
      assert.ok(best !== undefined);
      assert.deepEqual(Array.from(encoderDepths), encoder_depth, `${source}: encoder`);
      assert.deepEqual([...best.ids, 2], ids, source);
      assert.deepEqual(Array.from(best.depths), decoder_depth, `${source}: decoder`);
      logprobs.forEach((logprob, at) => {
        const off = Math.abs(logprob - (best.logprobs[at] as number));
        assert.ok(off <= LOGPROB_TOLERANCE + ROUNDING, `${source}: log-probability ${at} differs by ${off}`);
      });
      assert.equal(best.finishReason, 'stop');
    });
  });
}

/** Where two results differ in any bit. */
function assertSameBits(batched: SentenceResult, alone: SentenceResult, what: string): void {
  assert.deepEqual(batched.encoderDepths, alone.encoderDepths, `${what}: encoder depths`);
  const costs = ({ encoderSteps, decoderSteps, decoderPositions }: SentenceResult) => {
    return { encoderSteps, decoderSteps, decoderPositions };
  };
  assert.deepEqual(batched.hypotheses, alone.hypotheses, `${what}: hypotheses`);
  assert.deepEqual(costs(batched), costs(alone), `${what}: costs`);
}

for (const precision of ['int8', 'float32'] as const) {
  test(`${precision}: both backends agree`, async () => {
    const capi = await translated({ backend: 'ort-capi', precision, threads: 2 });
    const node = await translated({ backend: 'ort-node', precision, threads: 2 });
    for (const decoding of ['greedy', 'beam'] as const) {
      for (const [i, { hypotheses, encoderDepths }] of node[decoding].entries()) {
        assert.deepEqual(encoderDepths, capi[decoding][i]?.encoderDepths);
        for (const [rank, { ids, depths, score }] of hypotheses.entries()) {
          const other = capi[decoding][i]?.hypotheses[rank];
          assert.deepEqual([ids, depths], [other?.ids, other?.depths], `${decoding}, sentence ${i}, rank ${rank}`);
          assert.ok(Math.abs(score - (other?.score as number)) <= TIE);
        }
      }
    }
  });
}

test('int8: one thread and two compute the same to the last bit', async () => {
  const one = await translated({ backend: 'ort-capi', precision: 'int8', threads: 1 });
  const two = await translated({ backend: 'ort-capi', precision: 'int8', threads: 2 });
  assert.deepEqual(one.greedy.map(untimed), two.greedy.map(untimed));
  assert.deepEqual(one.beam.map(untimed), two.beam.map(untimed));
});

const untimed = ({ firstTokenAtMs: _, ...result }: SentenceResult) => result;

test('int8: each golden sentence alone, and all of them together under tight limits, are the same to the last bit', async () => {
  const together = await translated({ backend: 'ort-capi', precision: 'int8', threads: 2 });
  for (const [i, { source, source_ids }] of golden.entries()) {
    for (const [decoding, beam] of [['greedy', 1] as const, ['beam', 4] as const]) {
      const alone = await translateAlone(family, sentence(source_ids, { beam }));
      assertSameBits(together[decoding][i] as SentenceResult, alone, `${decoding}: ${source}`);
    }
  }
});

test('no native handle outlives its backend', async () => {
  for (const report of reports.values()) assert.equal((await report).liveHandles, 0);
});

function randomBudget(random: Random): Budget {
  if (random.chance(0.5)) return MODEL_BUDGET;
  const maxSteps = random.int(1, MAX_STEPS);
  const threshold = random.chance(0.5) ? MODEL_BUDGET.threshold : 0.05 + 0.95 * random.next();
  return { maxSteps, minSteps: random.chance(0.7) ? 1 : random.int(1, maxSteps), threshold };
}

/** Golden sentences, their beginnings, and two run together, so that lengths are many and depths real. */
function randomSentence(random: Random): Sentence {
  const ids = [...random.pick(golden).source_ids.slice(0, -1), ...random.pick(golden).source_ids.slice(0, -1)];
  const length = random.chance(0.3) ? random.int(1, 4) : random.int(1, ids.length);
  return sentence([...ids.slice(0, length), 2], {
    encoderBudget: randomBudget(random),
    decoderBudget: randomBudget(random),
    beam: random.chance(0.5) ? 1 : random.pick([2, 3, 4, 8]),
    lengthPenalty: random.pick([0, 0.6, 1]),
    maxNewTokens: random.chance(0.5) ? random.int(1, 8) : random.int(1, 24),
    submitBefore: random.int(0, 30),
  });
}

function randomLimits(random: Random, sentences: readonly Sentence[]): TranslateLimits {
  const longest = Math.max(...sentences.map(({ ids }) => ids.length));
  const needed = sentences.map((s) => s.beam * s.maxNewTokens * s.decoderBudget.maxSteps);
  return {
    encoder: {
      rowsMax: random.int(longest, 3 * longest),
      lanesMax: random.pick([1, 2, 64]),
      slotsMax: random.int(longest, 4 * longest),
      finishRowsMax: random.pick([1, 30, 512]),
    },
    memoryRowsMax: random.int(longest, 4 * longest),
    decoder: {
      rowsMax: random.int(8, ROOMY.decoder.rowsMax),
      cacheRowsMax: random.int(Math.max(...needed), Math.max(...needed) * random.int(1, 4)),
    },
  };
}

test('int8: in random company, under random limits and budgets, a sentence is what it is alone to the last bit', async () => {
  const replay = process.env[SEED];
  const seeds = replay === undefined ? [1, 2, 3, 4, 5] : [Number(replay)];
  for (const seed of seeds) {
    await withSeed(seed, SEED, async (random) => {
      const sentences = Array.from({ length: 9 }, () => randomSentence(random));
      const limits = randomLimits(random, sentences);
      const together = await translateAll(family, sentences, limits);
      for (const [i, one] of sentences.entries()) {
        const what = `sentence ${i} (${JSON.stringify({ ...one, ids: one.ids.length })}, ${JSON.stringify(limits)})`;
        assertSameBits(together[i] as SentenceResult, await translateAlone(family, one), what);
      }
    });
  }
});

test('a beam of 4: best first, each translation another one, and the best about as good as greedy or better', async () => {
  const { greedy, beam } = await translated({ backend: 'ort-capi', precision: 'int8', threads: 2 });
  for (const [i, { hypotheses }] of beam.entries()) {
    const scores = hypotheses.map(({ score }) => score);
    assert.deepEqual(
      scores,
      scores.toSorted((a, b) => b - a),
    );
    assert.equal(new Set(hypotheses.map(({ ids }) => ids.join())).size, 4);
    assert.ok((scores[0] as number) >= (greedy[i]?.hypotheses[0]?.score as number) - 0.05, `sentence ${i}`);
  }
});

const FIXED: Budget = { maxSteps: MAX_STEPS, minSteps: MAX_STEPS, threshold: 0.99 };
const source = golden[1]?.source_ids ?? [];
const all = (depths: Uint8Array | undefined, depth: number) => depths?.every((value) => value === depth);

test('min_steps = max_steps is the fixed-depth model, in encoder and decoder apart', async () => {
  for (const depth of [1, 3, MAX_STEPS]) {
    const fixed = { maxSteps: depth, minSteps: depth, threshold: 0.99 };
    const both = await translateAlone(
      family,
      sentence(source, { encoderBudget: fixed, decoderBudget: fixed, beam: 2 }),
    );
    assert.ok(all(both.encoderDepths, depth));
    assert.ok(both.hypotheses.every(({ depths }) => all(depths, depth)));
    assert.equal(both.encoderSteps, depth * source.length);
    assert.equal(both.decoderSteps, depth * both.decoderPositions);
  }
});

test('a budget of the encoder leaves the decoder free to halt, and the other way round', async () => {
  const plain = await translateAlone(family, sentence(source));
  const encoder = await translateAlone(family, sentence(source, { encoderBudget: FIXED }));
  const decoder = await translateAlone(family, sentence(source, { decoderBudget: FIXED }));
  assert.ok(all(encoder.encoderDepths, MAX_STEPS) && !all(encoder.hypotheses[0]?.depths, MAX_STEPS));
  assert.ok(all(decoder.hypotheses[0]?.depths, MAX_STEPS));
  assert.deepEqual(decoder.encoderDepths, plain.encoderDepths);
});

test('max_new_tokens cuts a translation, whose tokens stay what they were', async () => {
  const whole = (await translateAlone(family, sentence(source))).hypotheses[0];
  const cut = (await translateAlone(family, sentence(source, { maxNewTokens: 3 }))).hypotheses[0];
  assert.equal(cut?.finishReason, 'length');
  assert.deepEqual(cut?.ids, whole?.ids.slice(0, 3));
  assert.deepEqual(cut?.logprobs, whole?.logprobs.slice(0, 3));
});
