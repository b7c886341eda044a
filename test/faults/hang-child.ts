/** A process whose engine hangs in native code: it answers, says why, and ends. */
import { Worker } from 'node:worker_threads';
import { EngineClient } from '../../src/engine/client.js';
import { endProcess } from '../../src/engine/start.js';
import type { ServerError } from '../../src/errors.js';
import { MODEL_BUDGET } from '../families/scoring.js';
import { SHIPPED, shippedModel } from '../shipped-package.js';

const client = new EngineClient({
  setup: {
    backend: 'ort-capi',
    threads: 1,
    spin: false,
    limits: { rowsMax: 512, lanesMax: 16, slotsMax: 2048, finishRowsMax: 256 },
    cacheRowsMax: 2048,
    span: { lanesMax: 4, blockTokens: 128, sessionsMax: 2, idleMsMax: 1000 },
    queueWaitMsMax: 10_000,
    models: [await shippedModel('int8')],
  },
  queueLanesMax: 100,
  queueTokensMax: 100_000,
  stallMsMax: 200,
  terminateMsMax: 200,
  onStuck: endProcess,
  spawn: (setup) =>
    new Worker(new URL('./faulty-thread.js', import.meta.url), {
      workerData: { setup, fault: { kind: 'hang-native', atStep: 1 } },
    }),
});
await client.started();
const windows = [{ ids: Int32Array.of(5, 6, 7), scoreFrom: 0 }];
const request = { model: SHIPPED, windows, budget: MODEL_BUDGET, topLogprobs: 0, deadlineAtMs: null };
await client.score(request, new AbortController().signal).catch((error: ServerError) => {
  process.stderr.write(`answered ${error.code}\n`);
});
