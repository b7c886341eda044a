/** Texts of any length and sessions, over a family that scores token i of a stream as -(its position). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SpanBlockResult, SpanJob } from '../../src/engine/protocol.js';
import { SpanStage } from '../../src/engine/span-stage.js';
import { ServerError } from '../../src/errors.js';
import type { SpanPlan } from '../../src/scheduler/span-scheduler.js';

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
    { id: 'm', bosId: 10, family, keysPerToken: 7 },
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
  const rest = { spanCap: null, topLogprobs: 0, submittedAtMs: 0, deadlineAtMs: null };
  return { kind: 'span', id, model: 'm', texts, session, ...rest };
}

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
  stage.submit(job(1, [3], { key: 's', continues: false }), NEVER);
  assert.deepEqual(await drain(), [-0, -1, -2]);
  stage.settle(1);
  stage.submit(job(2, [2], { key: 's', continues: true }), NEVER);
  assert.deepEqual(await drain(), [-3, -4]);
});

test('unknown, busy, expired and too many sessions are told apart', async () => {
  const { stage, drain, pass } = harness();
  assert.throws(() => stage.submit(job(1, [3], { key: 's', continues: true }), NEVER), errorCode('SESSION_UNKNOWN'));
  stage.submit(job(2, [3], { key: 's', continues: false }), NEVER);
  assert.throws(() => stage.submit(job(3, [3], { key: 's', continues: true }), NEVER), errorCode('SESSION_BUSY'));
  await drain();
  stage.settle(2);
  stage.submit(job(4, [3], { key: 't', continues: false }), NEVER);
  await drain();
  stage.settle(4);
  assert.throws(() => stage.submit(job(5, [3], { key: 'u', continues: false }), NEVER), errorCode('QUEUE_FULL'));
  assert.equal(stage.gauges().slotsUsed, 2);
  pass(1001);
  assert.throws(() => stage.submit(job(6, [3], { key: 's', continues: true }), NEVER), errorCode('SESSION_UNKNOWN'));
  assert.equal(stage.gauges().slotsUsed, 0, 'idle sessions have given their caches back');
});

test('an aborted request ends its session: half a text is in the cache', async () => {
  const { stage } = harness();
  stage.submit(job(1, [40], { key: 's', continues: false }), NEVER);
  await stage.turn(() => 0);
  stage.abort(1);
  assert.equal(stage.gauges().slotsUsed, 0);
  assert.throws(() => stage.submit(job(2, [1], { key: 's', continues: true }), NEVER), errorCode('SESSION_UNKNOWN'));
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
