/**
 * Any sentences under any limits: every plan keeps the rules (the fake decoder checks them, keys above all), and every translation is
 * the one of translation-oracle.ts, which knows no cache and no batch.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget } from '../../src/engine/protocol.js';
import type { DecodeLimits } from '../../src/scheduler/decode-scheduler.js';
import { translateAlone } from '../translation-oracle.js';
import { Decoding, MAX_STEPS, MODEL_BUDGET, sourceIds, type TestSentence } from './decoding.js';

const ROOMY: DecodeLimits = { rowsMax: 32, cacheRowsMax: 20_000 };
const GREEDY: TestSentence = { source: 1, budget: MODEL_BUDGET, beam: 1, lengthPenalty: 1, maxNewTokens: 8 };
const WIDE: TestSentence = { ...GREEDY, beam: 4 };

const budgetArbitrary: fc.Arbitrary<Budget> = fc
  .record({
    maxSteps: fc.integer({ min: 1, max: MAX_STEPS }),
    low: fc.nat(),
    threshold: fc.constantFrom(0.99, 0.99, 0.5, 1),
  })
  .map(({ maxSteps, low, threshold }) => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const sentenceArbitrary = fc.record({
  source: fc.nat(5000),
  budget: fc.oneof(fc.constant<Budget>(MODEL_BUDGET), budgetArbitrary),
  beam: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 8 })),
  lengthPenalty: fc.constantFrom(0, 0.6, 1, 1.7),
  maxNewTokens: fc.oneof(fc.integer({ min: 1, max: 10 }), fc.constant(36)),
});
const arrivalArbitrary = fc.record({
  sentence: sentenceArbitrary,
  /** Turns before it is submitted, and, for some, from there to its abort. */
  submitAt: fc.nat(40),
  abortAfter: fc.option(fc.nat(40), { freq: 4 }),
});
type Arrival = typeof arrivalArbitrary extends fc.Arbitrary<infer T> ? T : never;

const rowsNeeded = ({ beam, maxNewTokens, budget }: TestSentence) => beam * maxNewTokens * budget.maxSteps;

/** Pools just large enough for the largest sentence, or with some room. */
const arrivalsAndLimits = fc
  .record({
    arrivals: fc.array(arrivalArbitrary, { minLength: 1, maxLength: 8 }),
    spareRows: fc.oneof(fc.constant(0), fc.nat(24)),
    spareCache: fc.oneof(fc.constant(0), fc.nat(400), fc.constant(20_000)),
  })
  .map(({ arrivals, spareRows, spareCache }) => ({
    arrivals,
    limits: {
      rowsMax: Math.max(...arrivals.map(({ sentence }) => sentence.beam)) + spareRows,
      cacheRowsMax: Math.max(...arrivals.map(({ sentence }) => rowsNeeded(sentence))) + spareCache,
    },
  }));

function assertAsAlone(decoding: Decoding, jobId: number, sentence: TestSentence): void {
  const done = decoding.done.get(jobId);
  assert.ok(done !== undefined, `sentence ${jobId} was lost`);
  const alone = translateAlone(sourceIds(sentence.source), sentence);
  assert.deepEqual(done.best, alone.best);
  assert.deepEqual(
    [done.sentence.positionSteps, done.sentence.positions],
    [alone.positionSteps, alone.positions],
    'what it cost',
  );
}

function runAll(arrivals: readonly Arrival[], limits: DecodeLimits): void {
  const decoding = new Decoding(limits);
  const jobs = new Map<number, Arrival>();
  const aborted = new Set<number>();
  const upcoming = new Set(arrivals);
  for (let turn = 0; ; turn++) {
    assert.ok(turn < 20_000, 'it comes to an end');
    for (const [jobId, { submitAt, abortAfter }] of jobs) {
      if (abortAfter === null || turn !== submitAt + abortAfter) continue;
      const held = decoding.done.has(jobId) ? [] : [Int32Array.of(jobId)];
      assert.deepEqual(decoding.scheduler.abort(jobId), held, 'its memory rows, unless it has left');
      aborted.add(jobId);
    }
    for (const arrival of upcoming) {
      if (arrival.submitAt > turn) continue;
      upcoming.delete(arrival);
      const jobId = decoding.submit(arrival.sentence);
      jobs.set(jobId, arrival);
    }
    if (decoding.turn() === null && upcoming.size === 0) break;
  }
  for (const [jobId, { sentence }] of jobs) {
    if (decoding.done.has(jobId)) assertAsAlone(decoding, jobId, sentence);
    else assert.ok(aborted.has(jobId), `sentence ${jobId} was lost`);
  }
  assert.deepEqual(
    decoding.admitted,
    decoding.admitted.toSorted((a, b) => a - b),
    'nobody is overtaken',
  );
  assertTokens(decoding, jobs);
  decoding.assertEmpty();
}

/** Greedy sentences say their tokens as they come, in order; others none. */
function assertTokens({ tokens, done }: Decoding, jobs: ReadonlyMap<number, Arrival>): void {
  for (const [jobId, { sentence }] of jobs) {
    const said = tokens.filter(({ request }) => request.jobId === jobId);
    if (sentence.beam > 1) assert.equal(said.length, 0);
    const best = done.get(jobId)?.best[0];
    if (sentence.beam > 1 || best === undefined) continue;
    assert.deepEqual(
      said.map(({ id, logprob, depth }) => [id, logprob, depth]),
      best.ids.map((id, i) => [id, best.logprobs[i], best.depths[i]]),
    );
  }
}

test('every sentence that was not aborted is translated as it would be alone, and all it held is given back', () => {
  fc.assert(
    fc.property(arrivalsAndLimits, ({ arrivals, limits }) => runAll(arrivals, limits)),
    { numRuns: 400 },
  );
});

test('sentences of the oracle end in all ways, and some have ties', () => {
  const reasons = new Set<string>();
  let ties = 0;
  for (let source = 0; source < 200; source++) {
    const { best } = translateAlone(sourceIds(source), { ...WIDE, maxNewTokens: 36 });
    for (const { finishReason } of best) reasons.add(finishReason);
    ties += best.length - new Set(best.map(({ score }) => score)).size;
  }
  assert.deepEqual([...reasons].toSorted(), ['length', 'repetition', 'stop']);
  assert.ok(ties > 5, `${ties} ties`);
});

test('a sentence that could not fit is refused when it comes, not half way', () => {
  const decoding = new Decoding({ rowsMax: 4, cacheRowsMax: rowsNeeded(WIDE) });
  assert.throws(() => decoding.submit({ ...WIDE, beam: 5, maxNewTokens: 1 }), /exceeds/);
  assert.throws(() => decoding.submit({ ...WIDE, maxNewTokens: 9 }), /exceeds/);
  decoding.submit(WIDE);
  decoding.finishAll();
  assert.equal(decoding.done.size, 1);
});

test('a full pool makes sentences wait in their order; each starts when what is left to promise is enough', () => {
  const decoding = new Decoding({ rowsMax: 64, cacheRowsMax: rowsNeeded(WIDE) });
  for (let source = 0; source < 6; source++) decoding.submit({ ...WIDE, source });
  decoding.turn();
  assert.deepEqual([decoding.scheduler.lanesRunning, decoding.scheduler.lanesWaiting], [1, 5]);
  decoding.finishAll();
  assert.deepEqual(decoding.admitted, [0, 1, 2, 3, 4, 5]);
  for (let source = 0; source < 6; source++) assertAsAlone(decoding, source, { ...WIDE, source });
  decoding.assertEmpty();
});

test('what a position turned out not to need is promised to others at once', () => {
  const first: TestSentence = { ...GREEDY, budget: { ...MODEL_BUDGET, threshold: 0.01 } };
  const second: TestSentence = { ...GREEDY, maxNewTokens: 1, budget: { maxSteps: 1, minSteps: 1, threshold: 0.99 } };
  const decoding = new Decoding({ rowsMax: 64, cacheRowsMax: rowsNeeded(first) });
  decoding.submit(first);
  decoding.submit(second);
  decoding.turn();
  assert.equal(decoding.scheduler.lanesWaiting, 1);
  while (decoding.scheduler.lanesWaiting > 0) decoding.turn();
  assert.equal(decoding.scheduler.lanesRunning, 2, 'the first one still runs');
  decoding.finishAll();
});

test('a waiting sentence that needs little does not overtake one that needs much', () => {
  const decoding = new Decoding({ rowsMax: 8, cacheRowsMax: rowsNeeded(WIDE) + 6 });
  for (const sentence of [WIDE, { ...WIDE, source: 2 }, { ...GREEDY, maxNewTokens: 1 }]) decoding.submit(sentence);
  decoding.finishAll();
  assert.deepEqual(decoding.admitted, [0, 1, 2]);
});

test('an abort frees rows, promises and slots whatever the sentence is at; its neighbours do not notice', () => {
  for (let turns = 0; turns < 40; turns++) {
    const decoding = new Decoding({ rowsMax: 8, cacheRowsMax: 2 * rowsNeeded(WIDE) });
    const sources = [11, 12, 13];
    for (const source of sources) decoding.submit({ ...WIDE, source });
    for (let turn = 0; turn < turns; turn++) decoding.turn();
    decoding.scheduler.abort(1);
    decoding.scheduler.abort(1);
    decoding.finishAll();
    for (const jobId of [0, 2]) assertAsAlone(decoding, jobId, { ...WIDE, source: sources[jobId] as number });
    decoding.assertEmpty();
  }
});

test('halting is counted once a position', () => {
  const decoding = new Decoding(ROOMY);
  for (const sentence of [GREEDY, { ...WIDE, source: 9 }]) decoding.submit(sentence);
  decoding.finishAll();
  const { atStep, remainderTenths, remainderSum } = decoding.scheduler.takeHalting();
  const { haltedAtStep, totals } = decoding.decoder;
  assert.deepEqual(
    atStep,
    Array.from(atStep, (_, step) => haltedAtStep[step] ?? 0),
  );
  assert.equal(
    remainderTenths.reduce((a, b) => a + b, 0),
    totals.halted,
  );
  assert.ok(Math.abs(remainderSum - totals.remainderSum) < 1e-6);
  assert.ok(
    decoding.scheduler.takeHalting().atStep.every((count) => count === 0),
    'reported once',
  );
});
