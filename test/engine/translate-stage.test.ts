/** The translating stage turn by turn over a fake family: its messages, what it gives back, what it reports. test/sim/ asks it of thousands. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FromEngine, StageTelemetry, TranslateJob } from '../../src/engine/protocol.js';
import type { StageMessage } from '../../src/engine/stage.js';
import { type TranslateLimits, TranslateStage } from '../../src/engine/translate-stage.js';
import { ServerError } from '../../src/errors.js';
import { assertTranslated, FakeTranslation, type TranslationTurn } from '../fake-translation.js';
import { BOS, EOS } from '../translation-oracle.js';

const MAX_STEPS = 6;
const BUDGET = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 };
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
const LIMITS: TranslateLimits = {
  encoder: { rowsMax: 32, lanesMax: 4, slotsMax: 32, finishRowsMax: 16 },
  memoryRowsMax: 32,
  decoder: { rowsMax: 12, cacheRowsMax: 600 },
};

function job(id: number, sources: readonly (readonly number[])[], changes: Partial<TranslateJob> = {}): TranslateJob {
  return {
    kind: 'translate',
    id,
    model: 'mt',
    sentences: sources.map((ids) => Int32Array.from(ids)),
    encoderBudget: BUDGET,
    decoderBudget: BUDGET,
    beam: 1,
    lengthPenalty: 1,
    maxNewTokens: sources.map(() => 8),
    streamTokens: false,
    submittedAtMs: 0,
    deadlineAtMs: null,
    ...changes,
  };
}

class Harness {
  readonly turns: TranslationTurn[] = [];
  readonly messages: StageMessage[] = [];
  readonly started: number[] = [];
  readonly family: FakeTranslation;
  readonly stage: TranslateStage;
  /** A turn takes a millisecond, all of it in its graph. */
  nowMs = 0;

  constructor(readonly limits = LIMITS) {
    this.family = new FakeTranslation(limits, (turn) => {
      this.turns.push(turn);
      this.nowMs += 1;
    });
    this.stage = new TranslateStage(
      { id: 'mt', maxSteps: MAX_STEPS, bosId: BOS, eosId: EOS, contextTokens: 128, family: this.family },
      limits,
    );
  }

  /** False: there was nothing to do. */
  async turn(): Promise<boolean> {
    const turn = await this.stage.turn(() => this.nowMs);
    if (turn === null) return false;
    this.started.push(...turn.started);
    this.messages.push(...turn.messages);
    return true;
  }

  async finishAll(): Promise<void> {
    for (let turns = 0; await this.turn(); turns++) assert.ok(turns < 5000, 'it comes to an end');
  }

  /** Turns until one of this kind has been taken; false when none comes. */
  async until(kind: TranslationTurn): Promise<boolean> {
    while (await this.turn()) if (this.turns.at(-1) === kind) return true;
    return false;
  }

  of<T extends FromEngine['type']>(type: T): Extract<FromEngine, { type: T }>[] {
    return this.messages.flatMap(({ message }) => (message.type === type ? [message as never] : []));
  }

  /** A sentence as long as the whole memory, and one that needs the whole cache, still go through. */
  async assertEmpty(): Promise<void> {
    const { slotsUsed, cacheRowsUsed, lanesWaiting, lanesRunning } = this.stage.gauges();
    assert.deepEqual([slotsUsed, cacheRowsUsed, lanesWaiting, lanesRunning], [0, 0, 0, 0]);
    const { encoder, memoryRowsMax, decoder } = this.limits;
    assert.ok(memoryRowsMax <= Math.min(encoder.rowsMax, encoder.slotsMax));
    const full = job(900, [new Array(memoryRowsMax).fill(3)], { maxNewTokens: [1] });
    const wide = job(901, [[5]], { maxNewTokens: [decoder.cacheRowsMax / MAX_STEPS] });
    const before = this.of('sentence').length;
    for (const probe of [full, wide]) this.stage.submit(probe, FOREVER);
    await this.finishAll();
    assert.equal(this.of('sentence').length - before, 2, 'rows of the memory or the cache were not given back');
    assert.equal(this.stage.gauges().cacheRowsUsed, 0);
  }
}

const SOURCES = [
  [11, 12, 13, 14],
  [21, 22],
  [31, 32, 33, 34, 35, 36],
];

test('a sentence is answered when it is done, by its index, and completes a part of its job', async () => {
  const harness = new Harness();
  const submitted = job(7, SOURCES);
  assert.equal(harness.stage.submit(submitted, { ...FOREVER, deadlineAtMs: 10_000 }), 3);
  await harness.finishAll();
  assert.deepEqual(
    harness
      .of('sentence')
      .map(({ index }) => index)
      .toSorted(),
    [0, 1, 2],
  );
  for (const { jobId, index, result } of harness.of('sentence')) {
    assert.equal(jobId, 7);
    assertTranslated(submitted, index, result);
  }
  assert.ok(harness.messages.every(({ completesPart }) => completesPart));
  assert.deepEqual(new Set(harness.started), new Set([7]));
  harness.stage.settle(7);
  assert.deepEqual(harness.stage.expire(20_000), [], 'what was answered has no deadline any more');
  await harness.assertEmpty();
});

test('all arrays of a result are transferred, each once', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, SOURCES, { beam: 3 }), FOREVER);
  await harness.finishAll();
  for (const { message, transfer } of harness.messages) {
    assert.ok(message.type === 'sentence');
    const { hypotheses, encoderDepths } = message.result;
    assert.equal(hypotheses.length, 3);
    const arrays = hypotheses.flatMap(({ ids, logprobs, depths }) => [ids.buffer, logprobs.buffer, depths.buffer]);
    assert.equal(new Set(transfer).size, transfer.length);
    assert.deepEqual(new Set(transfer), new Set([encoderDepths.buffer, ...arrays]));
  }
});

test('it takes only jobs to translate', () => {
  const score = { kind: 'score', id: 1, model: 'mt', windows: [], budget: BUDGET, topLogprobs: 0 } as const;
  assert.throws(
    () => new Harness().stage.submit({ ...score, submittedAtMs: 0, deadlineAtMs: null }, FOREVER),
    /to score/,
  );
});

test('tokens are streamed as they are decided, before their sentence, and only for those who asked', async () => {
  const harness = new Harness();
  harness.stage.submit(job(1, SOURCES, { streamTokens: true }), FOREVER);
  harness.stage.submit(job(2, SOURCES), FOREVER);
  harness.stage.submit(job(3, SOURCES, { streamTokens: true, beam: 2 }), FOREVER);
  await harness.finishAll();
  const tokens = harness.of('token');
  assert.ok(tokens.length > 0 && tokens.every(({ jobId }) => jobId === 1));
  assert.ok(harness.messages.every(({ message, completesPart }) => completesPart === (message.type === 'sentence')));
  for (const { jobId, index, result } of harness.of('sentence')) {
    if (jobId !== 1) continue;
    const said = tokens.filter((token) => token.index === index);
    const [best] = result.hypotheses;
    assert.ok(best !== undefined);
    assert.deepEqual(
      said.map(({ id, logprob, depth }) => [id, logprob, depth]),
      Array.from(best.ids, (id, i) => [id, best.logprobs[i], best.depths[i]]),
    );
    const place = (type: string) =>
      harness.messages.findLastIndex(({ message: m }) => {
        return m.type === type && 'index' in m && m.jobId === 1 && m.index === index;
      });
    assert.ok(place('token') < place('sentence'));
  }
});

test('the first token’s time is that of the turn that decided it', async () => {
  const harness = new Harness();
  harness.stage.submit(
    job(1, [SOURCES[0] as number[]], { streamTokens: true, decoderBudget: { ...BUDGET, minSteps: 3 } }),
    FOREVER,
  );
  await harness.until('decodeFinish');
  assert.equal(harness.of('token').length, 1);
  const firstAtMs = harness.nowMs;
  await harness.finishAll();
  assert.ok(harness.nowMs > firstAtMs);
  assert.equal(harness.of('sentence')[0]?.result.firstTokenAtMs, firstAtMs);
});

test('a sentence decodes while others still encode, and neither stack keeps the other waiting', async () => {
  const harness = new Harness({ ...LIMITS, encoder: { ...LIMITS.encoder, lanesMax: 1 }, memoryRowsMax: 600 });
  const many = Array.from({ length: 60 }, (_, i) => [i, i + 1, i + 2]);
  harness.stage.submit(job(1, many, { maxNewTokens: many.map(() => 2) }), FOREVER);
  await harness.finishAll();
  const stacks = harness.turns.map((turn) => (turn.startsWith('encode') ? 'e' : 'd')).join('');
  const [first, last] = [stacks.indexOf('d'), stacks.lastIndexOf('e')];
  assert.ok(first < 10 && last > 60, stacks);
  // Encoding takes more turns here, so that decoding at times has nothing to do; but it never waits for two turns.
  assert.ok(!stacks.includes('ddd') || stacks.indexOf('ddd') > last, stacks);
  const waiting = harness.turns.findIndex((turn, i) => {
    return (
      turn === 'decode' && harness.turns[i + 1]?.startsWith('encode') && harness.turns[i + 2]?.startsWith('encode')
    );
  });
  assert.equal(waiting, -1, 'a sentence in the decoder gets every other turn');
});

test('a memory that is full holds the encoder back until a sentence is done; nothing fails', async () => {
  const harness = new Harness({ ...LIMITS, memoryRowsMax: 6 });
  const submitted = job(1, [...SOURCES, ...SOURCES]);
  harness.stage.submit(submitted, FOREVER);
  await harness.finishAll();
  const sentences = harness.of('sentence');
  assert.equal(sentences.length, 6);
  for (const { index, result } of sentences) assertTranslated(submitted, index, result);
});

for (const [phase, kind] of [
  ['encoding', 'encode'],
  ['encoded, before it decodes', 'encodeFinish'],
  ['decoding', 'decode'],
  ['between two positions', 'decodeFinish'],
] as const) {
  for (const leave of ['abort', 'expire'] as const) {
    test(`${leave} while ${phase}: it says nothing more, everything is free, the others do not notice`, async () => {
      const harness = new Harness();
      const other = job(2, SOURCES, { beam: 2 });
      harness.stage.submit(job(1, SOURCES, { streamTokens: true, decoderBudget: { ...BUDGET, minSteps: 2 } }), {
        deadlineAtMs: leave === 'expire' ? 10_000 : null,
        startByMs: Number.POSITIVE_INFINITY,
      });
      harness.stage.submit(other, FOREVER);
      assert.ok(await harness.until(kind));
      const before = harness.messages.filter(({ jobId }) => jobId === 1).length;
      if (leave === 'expire') assert.deepEqual(harness.stage.expire(10_000), [{ jobId: 1, limit: 'deadline' }]);
      // A second one is harmless.
      else for (let times = 0; times < 2; times++) harness.stage.abort(1);
      await harness.finishAll();
      assert.equal(harness.messages.filter(({ jobId }) => jobId === 1).length, before);
      const sentences = harness.of('sentence').filter(({ jobId }) => jobId === 2);
      assert.equal(sentences.length, 3);
      for (const { index, result } of sentences) assertTranslated(other, index, result);
      assert.deepEqual(harness.stage.expire(1e9), [], 'it is forgotten');
      await harness.assertEmpty();
    });
  }
}

test('an abort of a sentence that waits for the decoder gives its memory back', async () => {
  const harness = new Harness({ ...LIMITS, decoder: { rowsMax: 4, cacheRowsMax: 4 * 8 * MAX_STEPS } });
  const wide = { beam: 4, maxNewTokens: [8] };
  const first = job(1, [SOURCES[2] as number[]], wide);
  harness.stage.submit(first, FOREVER);
  harness.stage.submit(job(2, [SOURCES[0] as number[]], wide), FOREVER);
  while (harness.turns.filter((turn) => turn === 'encodeFinish').length < 2) await harness.turn();
  assert.deepEqual(
    [harness.stage.gauges().lanesRunning, harness.stage.gauges().slotsUsed],
    [2, 0],
    'one decodes, one waits',
  );
  harness.stage.abort(2);
  assert.equal(harness.stage.gauges().lanesRunning, 1);
  await harness.finishAll();
  assert.deepEqual(
    harness.of('sentence').map(({ jobId }) => jobId),
    [1],
  );
  await harness.assertEmpty();
});

test('a job that no lane of was admitted in time leaves; one that has started stays', async () => {
  const harness = new Harness({ ...LIMITS, memoryRowsMax: 6, encoder: { ...LIMITS.encoder, lanesMax: 1 } });
  for (const id of [1, 2])
    harness.stage.submit(job(id, [SOURCES[2] as number[]]), { deadlineAtMs: null, startByMs: 50 });
  await harness.turn();
  assert.deepEqual(harness.stage.expire(49), []);
  assert.deepEqual(harness.stage.expire(50), [{ jobId: 2, limit: 'start' }]);
  await harness.finishAll();
  assert.deepEqual(
    harness.of('sentence').map(({ jobId }) => jobId),
    [1],
  );
});

test('gauges: lanes waiting and running, slots, rows of the cache', async () => {
  const harness = new Harness({ ...LIMITS, encoder: { ...LIMITS.encoder, lanesMax: 2 } });
  harness.stage.submit(job(1, SOURCES), FOREVER);
  assert.deepEqual(harness.stage.gauges(), {
    lanesWaiting: 3,
    lanesRunning: 0,
    slotsUsed: 0,
    slotsTotal: 32,
    cacheRowsUsed: 0,
    cacheRowsTotal: 600,
  });
  await harness.turn();
  const { lanesWaiting, lanesRunning, slotsUsed } = harness.stage.gauges();
  assert.deepEqual([lanesWaiting, lanesRunning, slotsUsed], [1, 2, 6]);
  await harness.until('decode');
  assert.ok(harness.stage.gauges().cacheRowsUsed > 0);
});

test('telemetry: both stacks report what they did, once', async () => {
  const harness = new Harness();
  for (const id of [1, 2, 3]) harness.stage.submit(job(id, SOURCES, { beam: id }), FOREVER);
  const parts: (readonly StageTelemetry[])[] = [];
  for (let turns = 0; await harness.turn(); turns++) if (turns % 7 === 0) parts.push(harness.stage.telemetry());
  parts.push(harness.stage.telemetry());
  const { encoder, decoder } = harness.family;
  for (const [i, [stage, fake, graphs]] of (
    [
      ['encoder', encoder, ['encode', 'encodeFinish']],
      ['decoder', decoder, ['decode', 'decodeFinish']],
    ] as const
  ).entries()) {
    const reports = parts.map((part) => part[i] as StageTelemetry);
    const sum = (of: (report: StageTelemetry) => number) => reports.reduce((total, report) => total + of(report), 0);
    assert.ok(reports.every(({ model, stage: name }) => model === 'mt' && name === stage));
    for (const field of ['steps', 'activeRows', 'renewedRows'] as const) {
      assert.equal(
        sum((report) => report[field]),
        fake.totals[field],
        `${stage} ${field}`,
      );
    }
    assert.equal(
      sum(({ keysUseful }) => keysUseful),
      2 * fake.totals.activeRows,
    );
    assert.equal(
      sum(({ keysComputed }) => keysComputed),
      3 * fake.totals.activeRows,
    );
    assert.deepEqual(
      reports.flatMap(({ rowsPerStep }) => [...rowsPerStep]),
      fake.rowsPerStep,
    );
    for (let step = 1; step <= MAX_STEPS; step++) {
      assert.equal(
        sum(({ haltedAtStep }) => haltedAtStep[step] as number),
        fake.haltedAtStep[step] ?? 0,
      );
    }
    assert.equal(
      sum(({ remainderTenths }) => remainderTenths.reduce((a, b) => a + b)),
      fake.totals.halted,
    );
    assert.ok(Math.abs(sum(({ remainderSum }) => remainderSum) - fake.totals.remainderSum) < 1e-6);
    const ran = harness.turns.filter((turn) => (graphs as readonly string[]).includes(turn)).length;
    assert.ok(Math.abs(sum(({ computeSeconds }) => computeSeconds) - ran / 1000) < 1e-9, 'a millisecond a graph');
    assert.equal(
      sum(({ hostSeconds }) => hostSeconds),
      0,
    );
  }
  assert.ok(
    harness.stage.telemetry().every(({ steps, activeRows }) => steps + activeRows === 0),
    'reported once',
  );
});

test('a graph that fails ends the turn: what the pools hold is unknown', async () => {
  const family = new FakeTranslation(LIMITS, (turn) => {
    if (turn === 'decode') throw new Error('out of memory');
  });
  const stage = new TranslateStage(
    { id: 'mt', maxSteps: MAX_STEPS, bosId: BOS, eosId: EOS, contextTokens: 128, family },
    LIMITS,
  );
  stage.submit(job(1, SOURCES), FOREVER);
  await assert.rejects(async () => {
    while ((await stage.turn(() => 0)) !== null);
  }, /out of memory/);
});

test('a sentence beyond the position tables is refused, not sent to the graph', () => {
  const family = new FakeTranslation(LIMITS, () => {});
  const stage = new TranslateStage(
    { id: 'mt', maxSteps: MAX_STEPS, bosId: BOS, eosId: EOS, contextTokens: 8, family },
    LIMITS,
  );
  const long = job(1, [[3, 4, 5, 6, 7, 8, 9, 10, EOS]]);
  const refused = (error: unknown) => error instanceof ServerError && error.code === 'INVALID_REQUEST';
  assert.throws(() => stage.submit(long, FOREVER), refused);
});
