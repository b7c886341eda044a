/** The real thread over a runtime that fails: every fault answers its requests, and the next worker serves. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { EngineClient } from '../../src/engine/client.js';
import type { ScoreRequest } from '../../src/engine/engine.js';
import { ServerError } from '../../src/errors.js';
import { MODEL_BUDGET } from '../families/scoring.js';
import { goldenTexts, SHIPPED, shippedModel } from '../shipped-package.js';
import type { Fault } from './faulty-thread.js';

const NEVER = new AbortController().signal;
const LIMITED = { timeout: 60_000 };
const IDS = Int32Array.from(goldenTexts()[2]?.ids ?? []);
const NONE: Fault = { kind: 'none', atStep: 0 };

const SETUP = {
  backend: 'ort-capi',
  threads: 1,
  spin: false,
  limits: { rowsMax: 512, lanesMax: 16, slotsMax: 2048, finishRowsMax: 256 },
  cacheRowsMax: 2048,
  span: { lanesMax: 4, blockTokens: 128, sessionsMax: 2, idleMsMax: 1000 },
  queueWaitMsMax: 10_000,
} as const;

const request = (): ScoreRequest => ({
  model: SHIPPED,
  windows: [{ ids: IDS.slice(), scoreFrom: 0 }],
  budget: MODEL_BUDGET,
  topLogprobs: 0,
  deadlineAtMs: null,
});

/** The first worker fails, those after it do not. */
async function failing(t: TestContext, fault: Fault, stallMsMax = 30_000): Promise<EngineClient> {
  const faults = [fault];
  const client = new EngineClient({
    setup: { ...SETUP, models: [await shippedModel('int8')] },
    queueLanesMax: 100,
    queueTokensMax: 100_000,
    stallMsMax,
    spawn: (setup) =>
      new Worker(new URL('./faulty-thread.js', import.meta.url), {
        workerData: { setup, fault: faults.shift() ?? NONE },
        resourceLimits: { maxOldGenerationSizeMb: 256 },
      }),
  });
  t.after(() => client.drain(0));
  await client.started();
  return client;
}

async function isLost(work: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, 'ENGINE_LOST');
    assert.match(error.message, message);
    return true;
  });
}

async function servesAgain(client: EngineClient): Promise<void> {
  while (client.info().state !== 'ready') await new Promise((resolve) => setImmediate(resolve));
  const { windows } = await client.score(request(), NEVER);
  assert.equal(windows[0]?.logprobs.length, IDS.length);
  assert.ok(windows[0]?.logprobs.every(Number.isFinite));
  assert.equal(client.info().restarts, 1);
}

for (const [kind, message, stallMsMax] of [
  ['throw', /injected failure/, 30_000],
  ['nan', /not a number/, 30_000],
  ['hang', /no sign of life for 300 ms/, 300],
  ['memory', /memory/, 30_000],
] as const) {
  test(`a step that meets ${kind}: 503 with the reason, and the next worker serves`, LIMITED, async (t) => {
    const client = await failing(t, { kind, atStep: 2 }, stallMsMax);
    await isLost(client.score(request(), NEVER), message);
    await servesAgain(client);
  });
}

test('a step that is slow, but not too slow, is waited for', LIMITED, async (t) => {
  const client = await failing(t, { kind: 'slow', atStep: 2 }, 2000);
  const { windows } = await client.score(request(), NEVER);
  assert.equal(windows[0]?.logprobs.length, IDS.length);
  assert.equal(client.info().restarts, 0);
});

test('a step that hangs in native code can only be ended with its process', LIMITED, async () => {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./hang-child.js', import.meta.url))], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    said += chunk;
  });
  const [code, signal] = await once(child, 'exit');
  assert.deepEqual([code, signal], [null, 'SIGKILL'], said);
  assert.match(said, /answered ENGINE_LOST/);
  assert.match(said, /a step hangs in native code.*; the process ends/);
});
