/** The real thread with the shipped package: what a client of the engine lives through. Waits are for messages, never for time. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { EngineClient } from '../../src/engine/client.js';
import type { ScoreRequest } from '../../src/engine/engine.js';
import { spawnWorker } from '../../src/engine/keeper.js';
import { startEngine } from '../../src/engine/start.js';
import type { ModelDescription } from '../../src/models/description.js';
import { externalConstants } from '../runtime/onnx-files.js';
import { SHIPPED, shippedModel, spoiltModel } from '../shipped-package.js';
import { golden, isEmpty, LIMITED, NEVER, rejectsWith, request, SETUP, SHORT, started } from './worker-harness.js';

const LONG = Int32Array.from(golden.at(-1)?.ids ?? []);
const longJob = (changes?: Partial<ScoreRequest>) => request(Array<Int32Array>(40).fill(LONG), changes);

test('it scores, and says what it did', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('float32')]);
  const reported = harness.report(isEmpty);
  const { windows, queueMs, computeMs } = await harness.client.score(request([SHORT], { topLogprobs: 2 }), NEVER);
  const [result] = windows;
  assert.ok(result !== undefined);
  assert.deepEqual(Array.from(result.depths), golden[2]?.depth);
  result.logprobs.forEach((logprob, i) => {
    assert.ok(Math.abs(logprob - (golden[2]?.logprobs[i] as number)) < 2e-4, `token ${i}`);
    assert.ok((result.topLogprobs[2 * i] as number) >= (result.topLogprobs[2 * i + 1] as number), 'best first');
    assert.ok(logprob <= (result.topLogprobs[2 * i] as number) + 1e-6, 'nothing is better than the best');
  });
  assert.ok(queueMs >= 0 && computeMs > 0);
  await reported;
  const counts = harness.reports.flatMap(({ stages }) => stages);
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  assert.equal(sum(counts.map(({ activeRows }) => activeRows)), result.positionSteps);
  assert.equal(sum(counts.flatMap(({ haltedAtStep }) => haltedAtStep)), SHORT.length);
});

test('a client that hangs up in the middle of a long job: its slots return, others are served', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const hangUp = new AbortController();
  const running = harness.report(({ lanesRunning }) => lanesRunning > 0);
  const long = harness.client.score(longJob(), hangUp.signal);
  await running;
  const empty = harness.report(isEmpty);
  hangUp.abort();
  await rejectsWith(long, 'CLIENT_CLOSED');
  await empty;
  const { windows } = await harness.client.score(request([SHORT]), NEVER);
  assert.equal(windows[0]?.logprobs.length, SHORT.length);
});

test('a deadline ends a long job; a short one beside it is answered', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const empty = harness.report(isEmpty);
  const long = harness.client.score(longJob({ deadlineAtMs: monotonicMs() + 100 }), NEVER);
  const short = harness.client.score(request([SHORT]), NEVER);
  await rejectsWith(long, 'DEADLINE_EXCEEDED');
  await short;
  await empty;
});

test('the worker is killed: ENGINE_LOST, a new one, the same scores', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const before = await harness.client.score(request([SHORT]), NEVER);
  const running = harness.report(({ lanesRunning }) => lanesRunning > 0);
  const lost = harness.client.score(longJob(), NEVER);
  await running;
  const [code] = await Promise.all([harness.workers[0]?.terminate(), rejectsWith(lost, 'ENGINE_LOST')]);
  assert.equal(code, 1);
  await rejectsWith(harness.client.score(request([SHORT]), NEVER), 'NOT_READY');
  await harness.readyAgain();
  assert.equal(harness.client.info().restarts, 1);
  const after = await harness.client.score(request([SHORT]), NEVER);
  assert.deepEqual(after.windows[0]?.logprobs, before.windows[0]?.logprobs);
});

test(
  'killed again and again, each worker takes over what the one before has left, and scores the same',
  LIMITED,
  async () => {
    const workers: Worker[] = [];
    const config = parseConfig(['--threads', '1'], {});
    const engine = await startEngine(config, [await shippedModel('int8')], (setup) => {
      const worker = spawnWorker(setup);
      workers.push(worker);
      return worker;
    });
    const ready = async () => {
      while (engine.info().state !== 'ready') await new Promise((resolve) => setImmediate(resolve));
    };
    const before = await engine.score(request([SHORT]), NEVER);
    for (let time = 1; time <= 4; time++) {
      await workers.at(-1)?.terminate();
      await ready();
      assert.equal(engine.info().restarts, time);
    }
    const after = await engine.score(request([SHORT]), NEVER);
    assert.deepEqual(after.windows[0]?.logprobs, before.windows[0]?.logprobs);
    await engine.drain(0);
  },
);

test('a graph fails: ENGINE_LOST with the reason, and the next worker serves the other model', LIMITED, async (t) => {
  const model = await shippedModel('int8');
  const spoilt = await spoiltModel(t, 'int8', (folder) => {
    const file = join(folder, 'weights.bin');
    const weights = readFileSync(file);
    const scale = externalConstants(readFileSync(join(folder, 'begin.onnx'))).get('emb.scale');
    assert.ok(scale !== undefined);
    for (let i = 0; i < scale.bytes; i += 4) weights.writeFloatLE(Number.NaN, scale.offset + i);
    writeFileSync(file, weights);
  });
  const harness = await started(t, [model, { ...spoilt, id: 'spoilt' }]);
  const bad = harness.client.score(request([SHORT], { model: 'spoilt' }), NEVER);
  await rejectsWith(bad, 'ENGINE_LOST', /not a number/);
  await harness.readyAgain();
  const { windows } = await harness.client.score(request([SHORT]), NEVER);
  assert.equal(windows[0]?.logprobs.length, SHORT.length);
});

test('a package whose graphs disagree is refused by name, and the other one serves', LIMITED, async (t) => {
  const model = await shippedModel('int8');
  const { begin, ...graphs } = model.graphs;
  const wrong = { ...begin, outputs: {} } as ModelDescription['graphs'][string];
  const harness = await started(t, [{ ...model, id: 'wrong', graphs: { ...graphs, begin: wrong } }, model]);
  assert.deepEqual(
    harness.client.models().map(({ id }) => id),
    [SHIPPED],
  );
  assert.match(harness.client.refused()[0]?.reason ?? '', /begin: output .* nothing in the manifest/);
  await harness.client.score(request([SHORT]), NEVER);
});

test('a worker that could open no package still drains', LIMITED, async (t) => {
  const model = await shippedModel('int8');
  const harness = await started(t, [{ ...model, graphs: {} }]);
  assert.deepEqual(harness.client.models(), []);
  await harness.client.drain(1000);
  assert.equal(harness.client.info().state, 'stopped');
});

test('drain finishes what is in, and the thread ends by itself', LIMITED, async (t) => {
  const harness = await started(t, [await shippedModel('int8')]);
  const score = harness.client.score(request([LONG]), NEVER);
  const exited = new Promise((resolve) => harness.workers[0]?.on('exit', resolve));
  await harness.client.drain(20_000);
  assert.equal((await score).windows.length, 1);
  assert.equal(await exited, 0);
});

test('a thread that fails as it starts: the start fails with its reason', LIMITED, async () => {
  const client = new EngineClient({
    setup: { ...SETUP, models: [] },
    queueLanesMax: 1,
    queueTokensMax: 1,
    spawn: () => new Worker("throw new Error('no library')", { eval: true }),
  });
  await assert.rejects(client.started(), /^Error: the engine can't start: no library$/);
  await client.drain(0);
});
