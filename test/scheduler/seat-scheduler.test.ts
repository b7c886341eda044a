/** Sentences in seats, over a device that goes on by itself: any arrivals, any moment to read a launch, and each is translated as if alone. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  launchSteps,
  type SeatedSentence,
  type SeatLimits,
  type SeatPlan,
  type SeatResult,
  SeatScheduler,
} from '../../src/scheduler/seat-scheduler.js';
import { FakeSeats } from '../fake-seats.js';
import { EOS, type SentenceSettings, translateAlone } from '../translation-oracle.js';
import { MAX_STEPS, MODEL_BUDGET, sourceIds } from './decoding.js';

const CONTEXT = 40;

interface Wanted extends Omit<SentenceSettings, 'beam'> {
  readonly source: number;
}

class Seating {
  readonly scheduler: SeatScheduler;
  readonly device: FakeSeats;
  readonly done = new Map<number, SeatedSentence>();
  readonly heard = new Map<number, number>();
  readonly seated: number[] = [];
  steps = 0;
  renewed = 0;
  private readonly sources: Int32Array[] = [];
  private readonly underWay: { plan: SeatPlan; result: SeatResult }[] = [];

  constructor(readonly limits: SeatLimits) {
    this.scheduler = new SeatScheduler(limits, MAX_STEPS, EOS);
    this.device = new FakeSeats(limits.seatsMax, CONTEXT, (rows) => this.sources[rows[0] as number] as Int32Array);
  }

  submit({ source, budget, lengthPenalty, maxNewTokens }: Wanted): number {
    const jobId = this.sources.push(sourceIds(source)) - 1;
    const rest = { budget, lengthPenalty, maxNewTokens, beam: 1 };
    this.scheduler.submit({ jobId, index: 0, memoryRows: Int32Array.of(jobId), ...rest });
    return jobId;
  }

  get launches(): number {
    return this.underWay.length;
  }

  enqueue(): boolean {
    const plan = this.scheduler.schedule();
    if (plan === null) return false;
    this.seated.push(...plan.seated.map(({ request }) => request.jobId));
    this.underWay.push({ plan, result: this.device.launch(plan) });
    return true;
  }

  read(): void {
    const launch = this.underWay.shift();
    if (launch === undefined) return;
    const { said, done, activeSteps, renewed } = this.scheduler.apply(launch.plan, launch.result);
    this.steps += activeSteps;
    this.renewed += renewed;
    for (const { sentence, from, to } of said) {
      const { jobId } = sentence.request;
      assert.equal(from, this.heard.get(jobId) ?? 0, 'tokens are heard once, in order');
      assert.ok(to > from);
      this.heard.set(jobId, to);
    }
    for (const sentence of done) {
      assert.ok(!this.done.has(sentence.request.jobId), 'a sentence is done once');
      this.done.set(sentence.request.jobId, sentence);
      this.device.gone.add(sentence.request.jobId);
    }
  }

  finishAll(ahead = 2): void {
    for (let turn = 0; ; turn++) {
      assert.ok(turn < 5000, 'it comes to an end');
      if (this.launches >= ahead) this.read();
      if (this.enqueue()) continue;
      if (this.launches === 0) return;
      this.read();
    }
  }

  assertEmpty(): void {
    const { lanesRunning, lanesWaiting, cacheRowsUsed } = this.scheduler;
    assert.deepEqual([lanesRunning, lanesWaiting, cacheRowsUsed], [0, 0, 0]);
  }
}

function assertAsAlone(sentence: SeatedSentence | undefined, wanted: Wanted): void {
  assert.ok(sentence !== undefined, 'a sentence was lost');
  const alone = translateAlone(sourceIds(wanted.source), { ...wanted, beam: 1 });
  const { ids, logprobs, depths, score, finishReason } = sentence;
  assert.deepEqual([{ ids, logprobs, depths, score, finishReason }], alone.best);
  assert.deepEqual([sentence.positionSteps, sentence.positions], [alone.positionSteps, alone.positions]);
}

const budget = fc
  .record({ maxSteps: fc.integer({ min: 1, max: MAX_STEPS }), low: fc.nat(), threshold: fc.constantFrom(0.99, 0.5, 1) })
  .map(({ maxSteps, low, threshold }) => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const wanted = fc.record({
  source: fc.nat(5000),
  budget: fc.oneof(fc.constant(MODEL_BUDGET), budget),
  lengthPenalty: fc.constantFrom(0, 1, 1.7),
  maxNewTokens: fc.oneof(fc.integer({ min: 1, max: 10 }), fc.constant(36)),
});
const arrival = fc.record({
  sentence: wanted,
  submitAt: fc.nat(30),
  abortAfter: fc.option(fc.nat(20), { freq: 4 }),
});

test('any arrivals, aborts and launches ahead: what is done is what it is alone, and nothing is left', () => {
  const run = fc.property(
    fc.array(arrival, { minLength: 1, maxLength: 12 }),
    fc.integer({ min: 1, max: 5 }),
    fc.nat(600),
    fc.integer({ min: 1, max: 16 }),
    fc.integer({ min: 1, max: 2 }),
    (arrivals, seatsMax, spare, stepsMax, ahead) => {
      const rows = ({ sentence: { maxNewTokens, budget } }: (typeof arrivals)[number]) =>
        maxNewTokens * budget.maxSteps;
      const seating = new Seating({ seatsMax, stepsMax, cacheRowsMax: Math.max(...arrivals.map(rows)) + spare });
      const jobs = new Map<number, (typeof arrivals)[number]>();
      const upcoming = new Set(arrivals);
      for (
        let turn = 0;
        upcoming.size > 0 ||
        [...jobs.values()].some(({ submitAt, abortAfter }) => abortAfter !== null && submitAt + abortAfter >= turn);
        turn++
      ) {
        for (const one of upcoming) {
          if (one.submitAt > turn) continue;
          upcoming.delete(one);
          jobs.set(seating.submit(one.sentence), one);
        }
        for (const [jobId, { submitAt, abortAfter }] of jobs) {
          if (abortAfter === null || submitAt + abortAfter !== turn) continue;
          const held = seating.done.has(jobId) ? [] : [Int32Array.of(jobId)];
          assert.deepEqual(seating.scheduler.abort(jobId), held, 'its memory rows, unless it has left');
          seating.device.gone.add(jobId);
        }
        if (seating.launches >= ahead) seating.read();
        seating.enqueue();
      }
      seating.finishAll(ahead);
      seating.assertEmpty();
      for (const [jobId, { sentence, abortAfter }] of jobs) {
        if (abortAfter === null || seating.done.has(jobId)) assertAsAlone(seating.done.get(jobId), sentence);
      }
      assert.deepEqual(
        seating.seated,
        seating.seated.toSorted((a, b) => a - b),
        'nobody is overtaken',
      );
    },
  );
  fc.assert(run, { numRuns: 300 });
});

const GREEDY: Wanted = { source: 1, budget: MODEL_BUDGET, lengthPenalty: 1, maxNewTokens: 8 };

test('what is counted is what the device computed', () => {
  const seating = new Seating({ seatsMax: 8, stepsMax: 4, cacheRowsMax: 5000 });
  for (let source = 0; source < 20; source++) seating.submit({ ...GREEDY, source });
  seating.finishAll();
  assert.equal(
    seating.steps,
    seating.device.rowsPerStep.reduce((sum, rows) => sum + rows, 0),
  );
  assert.equal(seating.renewed, seating.device.renewed);
  const { atStep } = seating.scheduler.takeHalting();
  const depths = [...seating.done.values()].flatMap((sentence) => sentence.depths);
  const counted = atStep.map((_, step) => depths.filter((depth) => depth === step).length);
  assert.deepEqual(atStep, counted);
  assert.equal(seating.scheduler.takeHalting().remainderSum, 0, 'taken once');
});

test('a launch has about the steps of a token, of those that are captured', () => {
  assert.deepEqual(launchSteps(4), [1, 2, 3, 4]);
  assert.deepEqual(launchSteps(1), [1]);
  const lengths = (fixed: number, stepsMax: number) => {
    const seating = new Seating({ seatsMax: 2, stepsMax, cacheRowsMax: 5000 });
    const budget = { maxSteps: fixed, minSteps: fixed, threshold: 0.99 };
    for (let source = 0; source < 60; source++) seating.submit({ ...GREEDY, source, budget });
    const steps: number[] = [];
    for (let plan = seating.scheduler.schedule(); plan !== null; plan = seating.scheduler.schedule()) {
      steps.push(plan.steps);
      seating.scheduler.apply(plan, seating.device.launch(plan));
    }
    return [steps[0], steps.at(-1)];
  };
  assert.deepEqual(lengths(5, 8), [1, 4], 'nothing is known at first');
  assert.deepEqual(lengths(5, 2), [1, 2]);
  assert.deepEqual(lengths(1, 8), [1, 1]);
});

test('seats are filled from the lowest, so that a launch is as short as its sentences need', () => {
  const seating = new Seating({ seatsMax: 64, stepsMax: 1, cacheRowsMax: 100_000 });
  const jobs = Array.from({ length: 5 }, () => seating.submit(GREEDY));
  assert.deepEqual(seating.scheduler.schedule()?.seats, 5);
  for (const job of [jobs[4], jobs[1]]) seating.scheduler.abort(job as number);
  seating.submit(GREEDY);
  const plan = seating.scheduler.schedule();
  assert.deepEqual(
    plan?.seated.map(({ seat }) => seat),
    [1],
  );
  assert.deepEqual(plan?.vacated, [4]);
  assert.equal(plan?.seats, 4);
});

test('a sentence that only repeats itself leaves a seat that still runs: it is vacated before anything else runs', () => {
  const stutterer = Array.from({ length: 500 }, (_, source) => ({ ...GREEDY, source, maxNewTokens: 39 })).find(
    (wanted) => translateAlone(sourceIds(wanted.source), { ...wanted, beam: 1 }).best[0]?.finishReason === 'repetition',
  );
  assert.ok(stutterer !== undefined);
  const seating = new Seating({ seatsMax: 3, stepsMax: 1, cacheRowsMax: 5000 });
  seating.submit({ ...GREEDY, maxNewTokens: 1 });
  const job = seating.submit(stutterer);
  for (let turn = 0; !seating.done.has(job); turn++) {
    assert.ok(turn < 1000);
    seating.enqueue();
    seating.read();
  }
  assertAsAlone(seating.done.get(job), stutterer);
  seating.submit(GREEDY);
  const plan = seating.scheduler.schedule();
  assert.deepEqual([plan?.seated.map(({ seat }) => seat), plan?.vacated], [[0], [1]]);
});

test('a full cache makes the next one wait; what never fits, and beams, are refused', () => {
  const seating = new Seating({ seatsMax: 4, stepsMax: 1, cacheRowsMax: 8 * MAX_STEPS });
  for (let source = 0; source < 3; source++) seating.submit({ ...GREEDY, source });
  assert.equal(seating.scheduler.schedule()?.seated.length, 1);
  assert.deepEqual([seating.scheduler.lanesRunning, seating.scheduler.lanesWaiting], [1, 2]);
  assert.throws(() => seating.submit({ ...GREEDY, maxNewTokens: 9 }), /exceeds/);
  const request = { jobId: 9, index: 0, memoryRows: Int32Array.of(0), ...GREEDY, beam: 2 };
  assert.throws(() => seating.scheduler.submit(request), /one hypothesis/);
});
