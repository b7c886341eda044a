/** The stage that translates on a device, over an encoder, seats and a decoder that are simulated: any jobs, any order in which launches end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget, StageTelemetry, TranslateJob } from '../../src/engine/protocol.js';
import { type ResidentTranslateLimits, ResidentTranslateStage } from '../../src/engine/resident-translate-stage.js';
import { NOTHING_YET, type StageMessage } from '../../src/engine/stage.js';
import type { Launch, Launching } from '../../src/families/launching.js';
import type { DecodeLaunch, LaunchingDecoder } from '../../src/families/resident-decoder.js';
import type { EncodedLane } from '../../src/families/resident-encoder.js';
import { LAUNCHES_AHEAD, type SeatingDecoder, type SeatLaunch } from '../../src/families/seated-decoder.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';
import { candidatesPerHypothesis } from '../../src/scheduler/beam.js';
import type { DecodeAdvancePlan } from '../../src/scheduler/decode-scheduler.js';
import type { TimeLimits } from '../../src/scheduler/lane-queue.js';
import type { ResidentPlan, RowRange, StepProgress } from '../../src/scheduler/resident-scheduler.js';
import type { SeatPlan } from '../../src/scheduler/seat-scheduler.js';
import { FakeDecoder } from '../fake-decoder.js';
import { FakeSeats } from '../fake-seats.js';
import { assertTranslated } from '../fake-translation.js';
import { replay } from '../halting-oracle.js';
import { SimulatedRows } from '../simulated-rows.js';
import { BOS, bestTokens, EOS } from '../translation-oracle.js';

const MAX_STEPS = 6;
const BUDGET: Budget = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 };
const FOREVER: TimeLimits = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const CONTEXT = 40;
const NEW_MAX = 36;
const LIMITS: ResidentTranslateLimits = {
  encoder: { rowsMax: 24, lanesMax: 4, slotsMax: 40, finishRowsMax: 24, flatRows: 12, stepsMax: 3, stepsMin: 2 },
  memoryRows: 60,
  seats: { seatsMax: 3, cacheRowsMax: NEW_MAX * MAX_STEPS * 2, stepsMax: 4 },
  decoder: { rowsMax: 8, cacheRowsMax: NEW_MAX * MAX_STEPS * 4 },
};

/** How many looks at each launch find it still under way. */
type Slowness = () => number;

/** What the rows of the memory hold. */
class Memory {
  private readonly rows = new Map<number, Int32Array>();

  write(memoryRows: Int32Array, source: Int32Array): void {
    for (const row of memoryRows) this.rows.set(row, source);
  }

  readonly sourceOf = (memoryRows: Int32Array): Int32Array => {
    const source = this.rows.get(memoryRows[0] as number);
    assert.ok(source !== undefined && source.length === memoryRows.length, 'a sentence is decoded once it is encoded');
    for (const row of memoryRows) assert.equal(this.rows.get(row), source, 'its memory is its own');
    return source;
  };
}

class FakeEncoder implements Launching<EncodedLane> {
  private readonly rows = new SimulatedRows(LIMITS.encoder);
  private underWay: { readonly plan: ResidentPlan; readonly progress: StepProgress[]; looks: number } | null = null;

  constructor(
    private readonly memory: Memory,
    private readonly slowness: Slowness,
  ) {}

  enqueue(plan: ResidentPlan): void {
    assert.equal(this.underWay, null, 'a launch at a time');
    for (const { memoryRows, request } of plan.finish) this.memory.write(memoryRows, request.ids);
    this.underWay = { plan, progress: this.rows.run(plan), looks: this.slowness() };
  }

  passed(): boolean {
    assert.ok(this.underWay !== null);
    return this.underWay.looks-- <= 0;
  }

  fetch(plan: ResidentPlan): Launch<EncodedLane> {
    assert.equal(this.underWay?.plan, plan);
    const { progress } = this.underWay as NonNullable<typeof this.underWay>;
    this.underWay = null;
    const finished = plan.finish.map(({ request: { ids, budget } }) => replay(ids, budget));
    return { finished, progress, deviceMs: 1 };
  }

  drop(ranges: readonly RowRange[]): void {
    assert.equal(this.underWay, null, 'rows are dropped between launches');
    this.rows.drop(ranges);
  }

  takePadded(): number {
    return 0;
  }
}

class FakeSeating implements SeatingDecoder {
  readonly device: FakeSeats;
  private readonly underWay: { readonly plan: SeatPlan; readonly launch: SeatLaunch; looks: number }[] = [];
  spoilt = false;

  constructor(
    memory: Memory,
    private readonly slowness: Slowness,
  ) {
    this.device = new FakeSeats(LIMITS.seats.seatsMax, CONTEXT, memory.sourceOf);
  }

  enqueue(plan: SeatPlan): void {
    assert.ok(this.underWay.length < LAUNCHES_AHEAD);
    const launch = { ...this.device.launch(plan), rows: plan.seats, deviceMs: 1 };
    if (this.spoilt) launch.saidNumbers.fill(Number.NaN);
    this.underWay.push({ plan, launch, looks: this.slowness() });
  }

  passed(plan: SeatPlan): boolean {
    const [oldest] = this.underWay;
    assert.equal(oldest?.plan, plan);
    return oldest.looks-- <= 0;
  }

  fetch(plan: SeatPlan): SeatLaunch {
    const oldest = this.underWay.shift();
    assert.equal(oldest?.plan, plan, 'launches are read in their order');
    return oldest.launch;
  }
}

class FakeLaunchingDecoder implements LaunchingDecoder {
  private readonly decoder: FakeDecoder;
  private underWay: { readonly launch: DecodeLaunch; looks: number } | null = null;

  constructor(
    private readonly memory: Memory,
    private readonly slowness: Slowness,
  ) {
    this.decoder = new FakeDecoder(LIMITS.decoder, ({ request }) => memory.sourceOf(request.memoryRows));
  }

  enqueue(plan: DecodeAdvancePlan): void {
    const k = Math.max(...plan.active.map(({ sentence }) => candidatesPerHypothesis(sentence.request.beam)));
    const best = plan.active.map(({ sentence, ids }) =>
      bestTokens(this.memory.sourceOf(sentence.request.memoryRows), [[BOS, ...ids]], k),
    );
    const launch = {
      ...this.decoder.advance(plan),
      topIds: Int32Array.from(best.flatMap(({ ids }) => Array.from(ids))),
      topLogprobs: Float32Array.from(best.flatMap(({ logprobs }) => Array.from(logprobs))),
      ...{ k, keys: 0, deviceMs: 1 },
    };
    this.underWay = { launch, looks: this.slowness() };
  }

  passed(): boolean {
    assert.ok(this.underWay !== null);
    return this.underWay.looks-- <= 0;
  }

  fetch(): DecodeLaunch {
    const { launch } = this.underWay as NonNullable<typeof this.underWay>;
    this.underWay = null;
    return launch;
  }

  takePadded(): number {
    return 0;
  }
}

function setup(slowness: Slowness = () => 0) {
  const memory = new Memory();
  const seats = new FakeSeating(memory, slowness);
  const stage = new ResidentTranslateStage(
    {
      ...{ id: 'mt', maxSteps: MAX_STEPS, bosId: BOS, eosId: EOS, contextTokens: CONTEXT, seats },
      encoder: new FakeEncoder(memory, slowness),
      decoders: [new FakeLaunchingDecoder(memory, slowness)],
    },
    LIMITS,
  );
  let nowMs = 0;
  return { stage, seats, turn: () => stage.turn(() => ++nowMs) };
}

function jobOf(id: number, lengths: readonly number[], changes: Partial<TranslateJob> = {}): TranslateJob {
  return {
    kind: 'translate',
    ...{ id, model: 'mt', encoderBudget: BUDGET, decoderBudget: BUDGET, beam: 1, lengthPenalty: 1 },
    sentences: lengths.map((length, i) => Int32Array.from({ length }, (_, j) => 3 + ((id * 7 + i * 5 + j) % 400))),
    maxNewTokens: lengths.map(() => NEW_MAX),
    ...{ streamTokens: false, submittedAtMs: 0, deadlineAtMs: null },
    ...changes,
  };
}

function assertEmpty(stage: ResidentTranslateStage): void {
  const { lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed } = stage.gauges();
  assert.deepEqual([lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed, stage.memoryRowsUsed], [0, 0, 0, 0, 0]);
}

const budgets = fc
  .record({ maxSteps: fc.integer({ min: 1, max: MAX_STEPS }), low: fc.nat(), threshold: fc.constantFrom(0.99, 0.5) })
  .map(({ maxSteps, low, threshold }): Budget => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const arrival = fc.record({
  lengths: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 3 }),
  beam: fc.constantFrom(1, 1, 1, 2, 4),
  decoderBudget: budgets,
  encoderBudget: budgets,
  maxNewTokens: fc.constantFrom(1, 4, NEW_MAX),
  streamTokens: fc.boolean(),
  submitAt: fc.nat(60),
  abortAfter: fc.option(fc.nat(40), { freq: 4 }),
});

test('any jobs, aborts and launches that end in any order: each sentence is what it is alone, and the reports add up', async () => {
  const run = fc.asyncProperty(fc.array(arrival, { minLength: 1, maxLength: 8 }), fc.nat(), async (arrivals, salt) => {
    let looked = salt;
    const { stage, seats, turn } = setup(() => {
      looked = (looked * 1103 + 12345) % 2048;
      return looked % 30;
    });
    const jobs = arrivals.map(({ lengths, maxNewTokens, submitAt: _, abortAfter: __, ...rest }, id) =>
      jobOf(id, lengths, { ...rest, maxNewTokens: lengths.map(() => maxNewTokens) }),
    );
    const answered = jobs.map(({ sentences }) => sentences.map(() => 0));
    const streamed = jobs.map(({ sentences }) => sentences.map((): number[] => []));
    const gone = new Set<number>();
    const reports: StageTelemetry[] = [];
    const hear = ({ jobId, message }: StageMessage) => {
      assert.ok(!gone.has(jobId), 'a job that has left is not answered');
      const job = jobs[jobId] as TranslateJob;
      if (message.type === 'token') streamed[jobId]?.[message.index]?.push(message.id);
      if (message.type !== 'sentence') return;
      assertTranslated(job, message.index, message.result);
      assert.ok(message.result.firstTokenAtMs > 0);
      (answered[jobId] as number[])[message.index] = 1;
      if (job.streamTokens && job.beam === 1)
        assert.deepEqual(streamed[jobId]?.[message.index], Array.from(message.result.hypotheses[0]?.ids ?? []));
    };
    const last = Math.max(...arrivals.map(({ submitAt, abortAfter }) => submitAt + (abortAfter ?? 0)));
    for (let i = 0, idle = false; i <= last || !idle; i++) {
      assert.ok(i < 20_000, 'it comes to an end');
      arrivals.forEach(({ submitAt, abortAfter }, id) => {
        if (submitAt === i) stage.submit(jobs[id] as TranslateJob, FOREVER);
        if (abortAfter === null || submitAt + abortAfter !== i) return;
        stage.abort(id);
        gone.add(id);
        seats.device.gone.add(id);
      });
      const done = await turn();
      idle = done === null;
      for (const message of done?.messages ?? []) hear(message);
      // As the loop: what was answered is forgotten.
      answered.forEach((of, id) => {
        if (of.every((one) => one === 1)) seats.device.gone.add(id);
      });
      if (i % 50 === 0) reports.push(...stage.telemetry());
    }
    reports.push(...stage.telemetry());
    assertEmpty(stage);
    jobs.forEach((_, id) => {
      if (!gone.has(id))
        assert.ok(
          answered[id]?.every((one) => one === 1),
          `a sentence of job ${id} was lost`,
        );
    });
    const decoder = reports.filter(({ stage: name }) => name === 'decoder');
    const sum = (of: (report: StageTelemetry) => number) => decoder.reduce((total, report) => total + of(report), 0);
    const halted = sum(({ haltedAtStep }) => haltedAtStep.reduce((all, count) => all + count, 0));
    assert.ok(sum(({ activeRows }) => activeRows) >= halted);
    assert.equal(
      sum(({ rowsPerStep }) => rowsPerStep.length),
      sum(({ steps }) => steps),
    );
  });
  await fc.assert(run, { numRuns: 200 });
});

test('while nothing has run, a turn ends all the same, so that new jobs are heard of', async () => {
  const { stage, turn } = setup(() => 1000);
  stage.submit(jobOf(1, [5]), FOREVER);
  assert.deepEqual((await turn())?.started, [1]);
  assert.equal(await turn(), NOTHING_YET);
  stage.submit(jobOf(2, [5]), FOREVER);
  assert.equal(stage.gauges().lanesWaiting, 1);
});

test('a launch that does not come back is waited for after a second, so that the silence is noticed', async () => {
  const { stage, turn } = setup(() => Number.POSITIVE_INFINITY);
  stage.submit(jobOf(1, [5]), FOREVER);
  await turn();
  let looks = 0;
  // The clock goes on by a millisecond a look, and what is waited for has run here.
  for (let done = await turn(); done === NOTHING_YET; done = await turn()) looks += 1;
  assert.ok(looks > 900 && looks <= 1000, `${looks}`);
  looks = 0;
  for (let done = await turn(); done === NOTHING_YET; done = await turn()) looks += 1;
  assert.ok(looks > 900, 'each launch has its second');
});

test('a beam and greedy sentences share the memory; a log-probability that is no number ends the stage', async () => {
  const { stage, seats, turn } = setup();
  stage.submit(jobOf(1, [5, 6], { beam: 4 }), FOREVER);
  stage.submit(jobOf(2, [5]), FOREVER);
  const answers: number[] = [];
  for (let done = await turn(); done !== null; done = await turn())
    answers.push(...done.messages.map(({ jobId }) => jobId));
  assert.deepEqual(answers.toSorted(), [1, 1, 2]);
  assertEmpty(stage);
  seats.spoilt = true;
  stage.submit(jobOf(3, [5]), FOREVER);
  await assert.rejects(async () => {
    while ((await turn()) !== null);
  }, RuntimeFailure);
});

test('what is past its deadline leaves, wherever it is', async () => {
  const { stage, turn } = setup();
  stage.submit(jobOf(1, [5], { maxNewTokens: [NEW_MAX] }), { deadlineAtMs: 10, startByMs: Number.POSITIVE_INFINITY });
  for (let i = 0; i < 4; i++) await turn();
  assert.deepEqual(stage.expire(5), []);
  assert.deepEqual(stage.expire(11), [{ jobId: 1, limit: 'deadline' }]);
  while ((await turn()) !== null);
  assertEmpty(stage);
});
