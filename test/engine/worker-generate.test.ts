/** Generating in the real thread with the shipped package: what a client of the engine lives through. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GenerateRequest } from '../../src/engine/engine.js';
import { MODEL_BUDGET } from '../families/scoring.js';
import { SHIPPED, shippedModel } from '../shipped-package.js';
import { isEmpty, LIMITED, NEVER, rejectsWith, request, SHORT, started } from './worker-harness.js';

function continuing(prompts: readonly Int32Array[], changes: Partial<GenerateRequest> = {}): GenerateRequest {
  return {
    model: SHIPPED,
    prompts,
    budget: MODEL_BUDGET,
    spanCap: null,
    maxNewTokens: 12,
    temperature: 0,
    topP: 1,
    seeds: prompts.map((_, i) => i),
    topLogprobs: 2,
    promptLogprobs: true,
    stopIds: [],
    deadlineAtMs: null,
    ...changes,
  };
}

test('what it generates is what it scores, bit for bit, and the listener hears it all', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const heard: number[] = [];
  const { sequences, firstTokenMs } = await harness.client.generate(continuing([SHORT]), NEVER, {
    prompt: (_, { logprobs }) => heard.push(...logprobs),
    token: (_, { logprobs }) => heard.push(...logprobs) === 0,
    sequence: (_, { finishReason }) => assert.equal(finishReason, 'length'),
  });
  const [sequence] = sequences;
  assert.ok(sequence?.prompt && firstTokenMs !== null && firstTokenMs > 0);
  const ids = Int32Array.from([...SHORT, ...sequence.tokens.ids]);
  const { windows } = await harness.client.score(request([ids], { topLogprobs: 2 }), NEVER);
  const { positionSteps, ...scored } = windows[0] as (typeof windows)[number];
  assert.deepEqual(heard, [...scored.logprobs]);
  for (const field of ['logprobs', 'depths', 'remainders', 'topIds', 'topLogprobs'] as const)
    assert.deepEqual([...sequence.prompt[field], ...sequence.tokens[field]], [...scored[field]], field);
  assert.deepEqual([sequence.positions, sequence.positionSteps], [ids.length, positionSteps]);
});

test(
  'a listener that has heard enough: the sequence is cut there, and the engine is empty soon after',
  LIMITED,
  async (t) => {
    const harness = await started(t, [await shippedModel('int8')]);
    const empty = harness.report(isEmpty);
    let heard = 0;
    const { sequences } = await harness.client.generate(continuing([SHORT], { maxNewTokens: 400 }), NEVER, {
      prompt: () => {},
      token: () => ++heard === 5,
      sequence: () => {},
    });
    assert.deepEqual([sequences[0]?.tokens.ids.length, sequences[0]?.finishReason, heard], [5, 'stop', 5]);
    assert.ok((sequences[0]?.positions ?? 0) < SHORT.length + 100, 'it was not left to run to its end');
    await empty;
  },
);

test('nothing to compute is answered too', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const nothing = continuing([new Int32Array(0), SHORT], { maxNewTokens: 0 });
  const { sequences, firstTokenMs } = await harness.client.generate(nothing, NEVER);
  assert.equal(firstTokenMs, null);
  assert.deepEqual(
    sequences.map(({ prompt, tokens, finishReason, positions }) => [
      prompt?.logprobs.length,
      tokens.ids.length,
      finishReason,
      positions,
    ]),
    [
      [0, 0, 'length', 0],
      [SHORT.length, 0, 'length', SHORT.length],
    ],
  );
});

test('a prompt beyond the context is refused, and others are served', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  await rejectsWith(harness.client.generate(continuing([new Int32Array(513)]), NEVER), 'INVALID_REQUEST', /513 tokens/);
  const { sequences } = await harness.client.generate(continuing([new Int32Array(500)], { maxNewTokens: 50 }), NEVER);
  assert.equal(sequences[0]?.tokens.ids.length, 12, 'up to the end of the context');
});

test('a client that hangs up in the middle of a long generation: its rows return', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const hangUp = new AbortController();
  const long = harness.client.generate(continuing([SHORT, SHORT], { maxNewTokens: 200 }), hangUp.signal, {
    prompt: () => {},
    token: () => {
      hangUp.abort();
      return false;
    },
    sequence: () => {},
  });
  const empty = harness.report((telemetry) => isEmpty(telemetry) && telemetry.cacheRowsUsed === 0);
  await rejectsWith(long, 'CLIENT_CLOSED');
  await empty;
});
