/** Any jobs under any limits: every plan keeps the rules (the fake family checks them), and every sequence is what it is alone. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Budget } from '../../src/engine/protocol.js';
import {
  type GenerateLimits,
  type GenerateProgress,
  GenerateScheduler,
} from '../../src/scheduler/generate-scheduler.js';
import type { Sequence } from '../../src/scheduler/sequence.js';
import { FakeGeneration } from '../fake-generation.js';
import { type Continuing, continueAlone } from '../generation-oracle.js';
import { EOS, VOCABULARY } from '../translation-oracle.js';

const MAX_STEPS = 8;
const PROMPT_MAX = 12;
const NEW_MAX = 10;
const POSITIONS_MAX = PROMPT_MAX + NEW_MAX;
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

const limitsArbitrary: fc.Arbitrary<GenerateLimits> = fc.record({
  rowsMax: fc.integer({ min: PROMPT_MAX + 1, max: 60 }),
  lanesMax: fc.integer({ min: 1, max: 8 }),
  slotsMax: fc.integer({ min: PROMPT_MAX + 2, max: 80 }),
  cacheRowsMax: fc.integer({ min: POSITIONS_MAX * MAX_STEPS, max: 3 * POSITIONS_MAX * MAX_STEPS }),
  finishRowsMax: fc.integer({ min: 1, max: 40 }),
});
const budgetArbitrary: fc.Arbitrary<Budget> = fc
  .record({ maxSteps: fc.integer({ min: 1, max: MAX_STEPS }), low: fc.nat(), threshold: fc.constantFrom(0.99, 0.5, 1) })
  .map(({ maxSteps, low, threshold }) => ({ maxSteps, minSteps: 1 + (low % maxSteps), threshold }));
const continuingArbitrary: fc.Arbitrary<Continuing> = fc.record({
  prompt: fc
    .array(fc.integer({ min: 3, max: VOCABULARY - 1 }), { maxLength: PROMPT_MAX })
    .map((ids) => Int32Array.from(ids)),
  budget: budgetArbitrary,
  maxNewTokens: fc.integer({ min: 0, max: NEW_MAX }),
  temperature: fc.constantFrom(0, 0, 0.5, 1),
  topP: fc.constantFrom(1, 0.5),
  seed: fc.nat(),
  topCount: fc.integer({ min: 0, max: 3 }),
  promptLogprobs: fc.boolean(),
  stopIds: fc.constantFrom(new Set<number>(), new Set([EOS])),
});
const jobArbitrary = fc.record({
  sequences: fc.array(continuingArbitrary, { minLength: 1, maxLength: 4 }),
  /** Turns before it is submitted, and, for some, from there to its abort, or to a stop of its first sequence. */
  submitAt: fc.integer({ min: 0, max: 40 }),
  abortAfter: fc.option(fc.integer({ min: 0, max: 40 }), { freq: 3 }),
  stopAfter: fc.option(fc.integer({ min: 0, max: 60 }), { freq: 3 }),
});
type TestJob = typeof jobArbitrary extends fc.Arbitrary<infer T> ? T : never;

interface Ended {
  readonly sequence: Sequence;
  readonly finishReason: 'stop' | 'length' | 'stopped';
  readonly cacheRows: number;
}

class Run {
  readonly scheduler: GenerateScheduler;
  readonly family: FakeGeneration;
  readonly ended = new Map<string, Ended>();
  readonly admitted: string[] = [];
  private readonly seen = new Set<Sequence>();
  /** Tokens that were reported, by sequence. */
  private readonly told = new Map<Sequence, number>();

  constructor(
    private readonly jobs: readonly TestJob[],
    private readonly limits: GenerateLimits,
  ) {
    this.scheduler = new GenerateScheduler(limits, MAX_STEPS);
    this.family = new FakeGeneration(limits);
  }

  /** In the order of their admission. */
  private get running(): readonly Sequence[] {
    // biome-ignore lint/complexity/useLiteralKeys: a private member
    return this.scheduler['running'];
  }

  async all(): Promise<this> {
    for (let turn = 0; ; turn++) {
      assert.ok(turn < 20_000, 'it comes to an end');
      this.events(turn);
      const worked = await this.turn();
      this.checkCache();
      if (!worked && turn > 120) break;
    }
    const { scheduler } = this;
    assert.ok(scheduler.idle);
    assert.deepEqual([scheduler.slotsUsed, scheduler.lanesWaiting, scheduler.lanesRunning], [0, 0, 0]);
    assert.deepEqual([scheduler.cache.used, scheduler.cache.unpromised], [0, this.limits.cacheRowsMax]);
    return this;
  }

  private events(turn: number): void {
    for (const [jobId, { sequences, submitAt, abortAfter, stopAfter }] of this.jobs.entries()) {
      if (turn === submitAt) {
        const requests = sequences.map((sequence, index) => ({ ...sequence, jobId, index }));
        this.scheduler.submit(jobId, requests, FOREVER);
      }
      if (stopAfter !== null && turn === submitAt + stopAfter) {
        const stopped = this.scheduler.stop(jobId, 0);
        if (stopped !== null) this.end({ ...stopped, finishReason: 'stopped' });
      }
      if (abortAfter !== null && turn === submitAt + abortAfter) this.scheduler.abort(jobId);
    }
  }

  private async turn(): Promise<boolean> {
    const { scheduler, family } = this;
    const plan = scheduler.schedule();
    if (plan === null) return false;
    for (const sequence of this.running) {
      if (this.seen.has(sequence)) continue;
      this.seen.add(sequence);
      this.admitted.push(keyOf(sequence));
    }
    if (plan.kind === 'advance') {
      scheduler.applyAdvance(plan, await family.advance(plan));
      return true;
    }
    const finished = await family.finish(plan);
    const { tokens, done } = scheduler.applyFinish(
      plan,
      finished.map(({ next }) => next),
    );
    for (const { sequence, token } of tokens) {
      assert.equal(sequence.said.at(-1), token);
      this.told.set(sequence, (this.told.get(sequence) ?? 0) + 1);
    }
    for (const end of done) this.end(end);
    return true;
  }

  private end(ended: Ended): void {
    const key = keyOf(ended.sequence);
    assert.ok(!this.ended.has(key), 'a sequence ends once');
    assert.equal(this.told.get(ended.sequence) ?? 0, ended.sequence.said.length, 'every token is told of');
    this.ended.set(key, ended);
  }

  /** In use are the rows of the sequences that run; promised is what they may still need, and it is enough. */
  private checkCache(): void {
    let used = 0;
    let promised = 0;
    for (const sequence of this.running) {
      const { positions, promisedRows, positionsMax, request, keepsDepths } = sequence;
      used += sequence.cacheRows;
      promised += promisedRows;
      const depths = keepsDepths ? request.budget.maxSteps : 1;
      const open = positions
        .filter(({ depth }) => depth === 0)
        .reduce((sum, { rows }) => sum + depths - rows.length, 0);
      assert.ok(promisedRows >= open + (positionsMax - positions.length) * depths, 'enough is promised');
    }
    const { cache } = this.scheduler;
    assert.equal(cache.used, used, 'rows in use');
    assert.equal(cache.unpromised, cache.capacity - used - promised, 'rows promised');
  }
}

function keyOf({ request }: Sequence): string {
  return `${request.jobId}.${request.index}`;
}

function assertAlone(asked: Continuing, { sequence, finishReason }: Ended): void {
  const { said, positions, positionSteps } = sequence;
  const alone = continueAlone(asked);
  const ids = said.map(({ id }) => id);
  assert.deepEqual(ids, alone.ids.slice(0, finishReason === 'stopped' ? ids.length : undefined));
  assert.deepEqual(
    said.map(({ logprob }) => logprob),
    alone.logprobs.slice(0, ids.length),
  );
  for (const { id, logprob, topIds, topLogprobs } of said) {
    assert.deepEqual([topIds.length, topLogprobs.length], [asked.topCount, asked.topCount]);
    const rank = topIds.indexOf(id);
    if (rank >= 0) assert.equal(topLogprobs[rank], logprob, 'the same float');
  }
  const halted = positions.filter(({ depth }) => depth > 0);
  if (finishReason === 'stopped') return;
  assert.equal(finishReason, alone.finishReason);
  assert.deepEqual(
    halted.map(({ depth, remainder }) => [depth, remainder]),
    alone.depths.map((depth, i) => [depth, alone.remainders[i]]),
  );
  assert.equal(positionSteps, alone.positionSteps);
}

test('every sequence of every job that was not aborted says what it would say alone', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(jobArbitrary, { minLength: 1, maxLength: 8 }), limitsArbitrary, async (jobs, limits) => {
      const { ended } = await new Run(jobs, limits).all();
      for (const [jobId, { sequences, abortAfter }] of jobs.entries()) {
        for (const [index, asked] of sequences.entries()) {
          const end = ended.get(`${jobId}.${index}`);
          if (end === undefined && abortAfter !== null) continue;
          assert.ok(end !== undefined, `sequence ${jobId}.${index} was lost`);
          assertAlone(asked, end);
        }
      }
    }),
    { numRuns: 250 },
  );
});

test('jobs take turns: sequences are admitted round by round, and none overtakes', async () => {
  const together = jobArbitrary.map((job) => ({ ...job, submitAt: 0, abortAfter: null, stopAfter: null }));
  await fc.assert(
    fc.asyncProperty(fc.array(together, { minLength: 1, maxLength: 6 }), limitsArbitrary, async (jobs, limits) => {
      const rounds = Array.from({ length: 4 }, (_, index) =>
        jobs.flatMap(({ sequences }, jobId) => (index < sequences.length ? [`${jobId}.${index}`] : [])),
      );
      assert.deepEqual((await new Run(jobs, limits).all()).admitted, rounds.flat());
    }),
    { numRuns: 60 },
  );
});

const ROOMY: GenerateLimits = { rowsMax: 60, lanesMax: 8, slotsMax: 100, cacheRowsMax: 2000, finishRowsMax: 40 };
const PLAIN: Continuing = {
  prompt: Int32Array.of(3, 4, 5, 6),
  budget: { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 },
  maxNewTokens: 6,
  temperature: 0,
  topP: 1,
  seed: 0,
  topCount: 0,
  promptLogprobs: false,
  stopIds: new Set(),
};
const alone = (sequence: Partial<Continuing>): TestJob => {
  return { sequences: [{ ...PLAIN, ...sequence }], submitAt: 0, abortAfter: null, stopAfter: null };
};

test('a prompt and new tokens of others share a step', async () => {
  const late = { ...alone({ prompt: new Int32Array(12).fill(7) }), submitAt: 20 };
  const { family, ended } = await new Run([alone({ maxNewTokens: 10 }), late], ROOMY).all();
  assert.equal(family.rowsMost, 14, 'the prompt, the position that decides, and one of the other');
  assert.equal(ended.size, 2);
});

test('a position keeps N + 1 rows, or as many as there are steps; what nothing follows keeps one', async () => {
  const { ended } = await new Run([alone({}), alone({ maxNewTokens: 1 }), alone({ maxNewTokens: 0 })], ROOMY).all();
  const whole = ended.get('0.0') as Ended;
  const depths = continueAlone(PLAIN).depths;
  const rows = depths.map((depth, i) => (i === depths.length - 1 ? depth : Math.min(depth + 1, MAX_STEPS)));
  assert.equal(
    whole.cacheRows,
    rows.reduce((sum, count) => sum + count, 0),
  );
  assert.deepEqual([ended.get('1.0')?.cacheRows, ended.get('2.0')?.cacheRows], [5, 4]);
});

test('in the last burst only what a later position still looks at is renewed', async () => {
  for (const last of [3, 4, 5, 6, 7]) {
    const sequence = { prompt: Int32Array.of(3, 4, 5, 6, 7, last), maxNewTokens: 1 };
    const { depths } = continueAlone({ ...PLAIN, ...sequence });
    const seen = depths.filter((depth, i) => depth < MAX_STEPS && depths.slice(i + 1).some((later) => later > depth));
    const { family } = await new Run([alone(sequence)], ROOMY).all();
    assert.equal(family.totals.renewedRows, seen.length, `depths ${depths}`);
  }
});

test('a job that waits too long or runs too long leaves, and others go on', async () => {
  const scheduler = new GenerateScheduler({ ...ROOMY, lanesMax: 1 }, MAX_STEPS);
  const family = new FakeGeneration(ROOMY);
  const submit = (jobId: number, deadlineAtMs: number | null, startByMs: number) =>
    scheduler.submit(jobId, [{ ...PLAIN, jobId, index: 0 }], { deadlineAtMs, startByMs });
  submit(1, 50, 10);
  submit(2, null, 20);
  submit(3, null, 100);
  const plan = scheduler.schedule();
  assert.ok(plan?.kind === 'advance');
  scheduler.applyAdvance(plan, await family.advance(plan));
  assert.deepEqual(scheduler.expire(30), [{ jobId: 2, limit: 'start' }], 'the first has started');
  assert.deepEqual(scheduler.expire(60), [{ jobId: 1, limit: 'deadline' }]);
  assert.deepEqual([scheduler.slotsUsed, scheduler.cache.used, scheduler.lanesWaiting], [0, 0, 1]);
  scheduler.abort(3);
  assert.ok(scheduler.idle);
});

/** A scheduler under the plain request's limits, and one turn of it: what ended, or what began. */
function driven(changes: Partial<GenerateLimits> = {}) {
  const limits = { ...ROOMY, ...changes };
  const scheduler = new GenerateScheduler(limits, MAX_STEPS);
  const family = new FakeGeneration(limits);
  const submit = (jobId: number, sequences: readonly Partial<Continuing>[] = [{}], tenant = '') => {
    const requests = sequences.map((sequence, index) => ({ ...PLAIN, ...sequence, jobId, index }));
    scheduler.submit(jobId, requests, { ...FOREVER, tenant });
  };
  const turn = async (): Promise<{ began: string[] } & GenerateProgress> => {
    const plan = scheduler.schedule();
    assert.ok(plan !== null);
    if (plan.kind === 'finish') {
      const finished = await family.finish(plan);
      const progress = scheduler.applyFinish(
        plan,
        finished.map(({ next }) => next),
      );
      return { began: [], ...progress };
    }
    scheduler.applyAdvance(plan, await family.advance(plan));
    return { began: plan.begin.filter(({ burst }) => burst === 0).map(keyOf), tokens: [], done: [] };
  };
  const untilToken = async () => {
    for (;;) {
      const { tokens } = await turn();
      if (tokens.length > 0) return tokens;
    }
  };
  return { scheduler, submit, turn, untilToken };
}

test('stop ends the sequence that is named as it stands, with the cache rows it held, and no other', async () => {
  const { scheduler, submit, untilToken } = driven();
  submit(1, [{}, {}]);
  submit(2, [{}, {}]);
  assert.equal(scheduler.stop(2, 1), null, 'what waits is not running');
  await untilToken();
  const used = scheduler.cache.used;
  const stopped = scheduler.stop(2, 1);
  assert.equal(stopped && keyOf(stopped.sequence), '2.1');
  assert.equal(stopped?.sequence.said.length, 1);
  assert.ok(stopped.cacheRows > 0);
  assert.deepEqual([scheduler.lanesRunning, scheduler.cache.used], [3, used - stopped.cacheRows]);
  assert.equal(scheduler.stop(2, 1), null, 'it has left');
  assert.equal(scheduler.stop(3, 0), null);
  assert.equal(scheduler.lanesRunning, 3);
});

test('two that fill rows, slots and cache to the last begin together; with one row less the second waits', async () => {
  // A prompt of four with the position that decides, one more slot while its keys are renewed, ten positions of eight depths.
  const exact = { rowsMax: 10, slotsMax: 12, cacheRowsMax: 160 };
  for (const [limits, began] of [
    [exact, ['1.0', '1.1']],
    [{ ...exact, rowsMax: 9 }, ['1.0']],
    [{ ...exact, slotsMax: 11 }, ['1.0']],
    [{ ...exact, cacheRowsMax: 159 }, ['1.0']],
  ] as const) {
    const { submit, turn } = driven(limits);
    submit(1, [{}, {}]);
    assert.deepEqual((await turn()).began, began, JSON.stringify(limits));
  }
  const { submit, turn } = driven({ rowsMax: 5, slotsMax: 6, cacheRowsMax: 80 });
  submit(1);
  assert.deepEqual((await turn()).began, ['1.0'], 'one that just fits is not refused');
});

test('once its prompt is done a sequence holds the slots of a token, and the next prompt comes in', async () => {
  const { scheduler, submit, turn, untilToken } = driven({ slotsMax: 8 });
  submit(1, [{}, {}]);
  const [first] = await untilToken();
  assert.equal(scheduler.lanesRunning, 1, 'twelve slots for both prompts: too many');
  const began: string[] = [];
  while (began.length === 0) began.push(...(await turn()).began);
  assert.deepEqual([began, first?.sequence.said.length], [['1.1'], 1], 'before the first has said its second token');
});

test('bursts that end together are finished together as far as finishRowsMax goes', async () => {
  for (const [finishRowsMax, together] of [
    [2, 2],
    [1, 1],
  ] as const) {
    const { submit, untilToken } = driven({ finishRowsMax });
    submit(1, [{}, {}]);
    assert.equal((await untilToken()).length, together);
  }
});

test('idle is who has neither what waits nor what runs', async () => {
  const { scheduler, submit, turn } = driven({ lanesMax: 1 });
  assert.ok(scheduler.idle);
  submit(1);
  assert.ok(!scheduler.idle, 'it waits');
  await turn();
  assert.ok(!scheduler.idle, 'it runs');
  scheduler.abort(1);
  assert.ok(scheduler.idle);
});

test('tenants take turns by what they may compute: the prompt and all new tokens', async () => {
  const { scheduler, submit, turn } = driven({ lanesMax: 1 });
  for (const id of [1, 2, 3]) submit(id, [{ maxNewTokens: 0 }], 'a');
  for (const id of [4, 5]) submit(id, [{ maxNewTokens: 6 }], 'b');
  const began: string[] = [];
  while (!scheduler.idle) began.push(...(await turn()).began);
  // Four positions of each of a's, ten of b's.
  assert.deepEqual(began, ['1.0', '4.0', '2.0', '3.0', '5.0']);
});

test('what halted is counted by step and handed over once; a job that was answered does not expire', async () => {
  const { scheduler, submit, turn } = driven();
  scheduler.submit(1, [{ ...PLAIN, jobId: 1, index: 0 }], { ...FOREVER, deadlineAtMs: 5 });
  submit(2);
  while (!scheduler.idle) await turn();
  const { depths } = continueAlone(PLAIN);
  const atStep = Array.from(
    { length: MAX_STEPS + 1 },
    (_, step) => 2 * depths.filter((depth) => depth === step).length,
  );
  assert.deepEqual([...scheduler.takeHalting().atStep], atStep);
  assert.ok([...scheduler.takeHalting().atStep].every((count) => count === 0));
  scheduler.settle(1);
  assert.deepEqual(scheduler.expire(9), []);
});

test('a sequence that could never run is refused as a defect of the caller', () => {
  const tight = { ...ROOMY, cacheRowsMax: 10 * MAX_STEPS - 1 };
  for (const limits of [tight, { ...ROOMY, rowsMax: 4 }, { ...ROOMY, slotsMax: 5 }]) {
    const scheduler = new GenerateScheduler(limits, MAX_STEPS);
    assert.throws(() => scheduler.submit(1, [{ ...PLAIN, jobId: 1, index: 0 }], FOREVER), /10 positions exceeds/);
  }
});
