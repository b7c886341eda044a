/** Texts of any length and sessions, over a family that scores token i of a stream as -(its position). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SpanBlockResult, SpanJob } from '../../src/engine/protocol.js';
import { SpanStage } from '../../src/engine/span-stage.js';
import { ServerError } from '../../src/errors.js';
import type { SpanPlan } from '../../src/scheduler/span-scheduler.js';
import { describeSpanModel } from '../fake-span.js';

const NEVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

function harness() {
  let nowMs = 0;
  const family = {
    async advance({ lanes, blockTokens }: SpanPlan): Promise<SpanBlockResult[]> {
      return lanes.map(({ startsAt, done, left }) => {
        const n = Math.min(left, blockTokens);
        const logprobs = Float32Array.from({ length: n }, (_, i) => -(startsAt + done + i));
        return { logprobs, topIds: new Int32Array(0), topLogprobs: new Float32Array(0), spans: new Float32Array(0) };
      });
    },
  };
  const stage = new SpanStage(
    { id: 'm', bosId: 10, family, span: describeSpanModel().span },
    { lanesMax: 4, rowsMax: 64, blockTokens: 16 },
    { sessionsMax: 2, idleMsMax: 1000 },
    () => nowMs,
  );
  const drain = async () => {
    const scores: number[] = [];
    for (let turn = await stage.turn(() => nowMs); turn !== null; turn = await stage.turn(() => nowMs)) {
      for (const { message } of turn.messages) if (message.type === 'block') scores.push(...message.result.logprobs);
    }
    return scores;
  };
  return {
    stage,
    drain,
    pass: (ms: number) => {
      nowMs += ms;
    },
  };
}

function job(id: number, lengths: readonly number[], session: SpanJob['session'] = null): SpanJob {
  const texts = lengths.map((length) => Int32Array.from({ length }, (_, i) => i));
  const rest = { spanCap: null, topLogprobs: 0, blocksAhead: null, submittedAtMs: 0, deadlineAtMs: null };
  return { kind: 'span', id, model: 'm', texts, session, ...rest };
}

const first = (key: string) => ({ key, continues: false, ends: false });
const next = (key: string) => ({ key, continues: true, ends: false });
const errorCode = (code: string) => (error: unknown) => error instanceof ServerError && error.code === code;

test('a text comes back block by block, the last message completing it', async () => {
  const { stage } = harness();
  assert.equal(stage.submit(job(1, [40]), NEVER), 1);
  const seen: [number, number, boolean][] = [];
  for (let turn = await stage.turn(() => 0); turn !== null; turn = await stage.turn(() => 0)) {
    for (const { message, completesPart } of turn.messages) {
      if (message.type === 'block') seen.push([message.start, message.result.logprobs.length, completesPart]);
    }
  }
  assert.deepEqual(seen, [
    [0, 16, false],
    [16, 16, false],
    [32, 8, true],
  ]);
  assert.equal(stage.telemetry()[0]?.activeRows, 40);
  assert.equal(stage.gauges().slotsUsed, 0);
});

test('a session goes on where it stopped', async () => {
  const { stage, drain } = harness();
  stage.submit(job(1, [3], first('s')), NEVER);
  assert.deepEqual(await drain(), [-0, -1, -2]);
  stage.settle(1);
  stage.submit(job(2, [2], next('s')), NEVER);
  assert.deepEqual(await drain(), [-3, -4]);
});

test('unknown, busy, expired and too many sessions are told apart', async () => {
  const { stage, drain, pass } = harness();
  assert.throws(() => stage.submit(job(1, [3], next('s')), NEVER), errorCode('SESSION_UNKNOWN'));
  stage.submit(job(2, [3], first('s')), NEVER);
  assert.throws(() => stage.submit(job(3, [3], next('s')), NEVER), errorCode('SESSION_BUSY'));
  assert.throws(() => stage.submit(job(3, [3], first('s')), NEVER), errorCode('SESSION_BUSY'));
  assert.throws(() => stage.endSession('s'), errorCode('SESSION_BUSY'));
  await drain();
  stage.settle(2);
  stage.submit(job(4, [3], first('t')), NEVER);
  await drain();
  stage.settle(4);
  assert.throws(() => stage.submit(job(5, [3], first('s')), NEVER), errorCode('SESSION_OPEN'));
  assert.throws(() => stage.submit(job(5, [3], first('u')), NEVER), errorCode('QUEUE_FULL'));
  assert.equal(stage.gauges().slotsUsed, 2);
  pass(1001);
  assert.throws(() => stage.submit(job(6, [3], next('s')), NEVER), errorCode('SESSION_UNKNOWN'));
  assert.equal(stage.gauges().slotsUsed, 0, 'idle sessions have given their caches back');
});

test('an aborted request ends its session: half a text is in the cache', async () => {
  const { stage } = harness();
  stage.submit(job(1, [40], first('s')), NEVER);
  await stage.turn(() => 0);
  stage.abort(1);
  assert.equal(stage.gauges().slotsUsed, 0);
  assert.throws(() => stage.submit(job(2, [1], next('s')), NEVER), errorCode('SESSION_UNKNOWN'));
});

test('deadlines count always, the wait for a start only until the first block', async () => {
  const { stage } = harness();
  stage.submit(job(1, [40]), { deadlineAtMs: null, startByMs: 5 });
  stage.submit(job(2, [40]), { deadlineAtMs: 9, startByMs: 5 });
  await stage.turn(() => 0);
  assert.deepEqual(stage.expire(6), []);
  assert.deepEqual(stage.expire(9), [{ jobId: 2, limit: 'deadline' }]);
  stage.submit(job(3, [40]), { deadlineAtMs: null, startByMs: 10 });
  assert.deepEqual(stage.expire(10), [{ jobId: 3, limit: 'start' }]);
});

test('a session ends with its last text, or when its client says so: either frees its cache', async () => {
  const { stage, drain } = harness();
  stage.submit(job(1, [3], first('s')), NEVER);
  await drain();
  stage.settle(1);
  stage.submit(job(2, [2], { key: 's', continues: true, ends: true }), NEVER);
  assert.deepEqual(await drain(), [-3, -4]);
  stage.settle(2);
  assert.equal(stage.gauges().slotsUsed, 0);
  assert.throws(() => stage.endSession('s'), errorCode('SESSION_UNKNOWN'));
  stage.submit(job(3, [3], first('s')), NEVER);
  await drain();
  stage.settle(3);
  assert.equal(stage.telemetry()[0]?.span?.sessionsOpen, 1);
  stage.endSession('s');
  assert.equal(stage.gauges().slotsUsed, 0);
  assert.equal(stage.telemetry()[0]?.span?.sessionsOpen, 0);
});

test('an idle session tells when it expires, and expires without a request', async () => {
  const { stage, drain, pass } = harness();
  assert.equal(stage.idleUntilMs(), null);
  stage.submit(job(1, [3], first('s')), NEVER);
  assert.equal(stage.idleUntilMs(), null, 'it is in work');
  await drain();
  stage.settle(1);
  assert.equal(stage.idleUntilMs(), 1000);
  pass(999);
  assert.equal(stage.expireIdle(), false);
  pass(1);
  assert.equal(stage.expireIdle(), true);
  assert.equal(stage.gauges().slotsUsed, 0);
});

test('what was asked for, what blocks computed, and what full spans would have', async () => {
  const { stage, drain } = harness();
  stage.submit({ ...job(1, [20]), spanCap: 8 }, NEVER);
  await drain();
  const [report] = stage.telemetry();
  // Heads of 5, 16, 10 and 61 keys under a cap of 8 + 4; their windows are 16 keys, and a block's own 16.
  assert.equal(report?.keysUseful, 20 * (5 + 12 + 10 + 12));
  assert.equal(report?.keysComputed, 2 * 16 * 4 * (16 + 16));
  assert.equal(report?.span?.keysFull, 20 * 4 * 64);
  assert.equal(report?.span?.spanSum, 20 * (39 / 4));
  assert.equal(report?.span?.tokensBySpan[0], 20, 'at most 32 keys');
  const needed = 20 * 10_000 + 20 * 39 * 3 * 8;
  assert.deepEqual(
    [report?.span?.multiplicationsNeeded, report?.span?.multiplicationsComputed],
    [needed, 32 * 10_000 + 32 * 4 * 32 * 3 * 8],
  );
  assert.equal(report?.span?.cacheBytesUsed, 0);
  // Three heads in rings of 16 + 16 rows, one in a ring of 64 + 16; 8 wide, keys and values, 4 bytes, 4 lanes.
  assert.equal(report?.span?.cacheBytesTotal, 4 * (3 * 32 + 80) * 8 * 2 * 4);
});
