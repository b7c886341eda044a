/** What the engine's thread runs. `worker.ts` is apart from it so that tests can run it over a runtime that fails. */
import { workerData } from 'node:worker_threads';
import { runWorker, type WorkerSetup } from './worker.js';

await runWorker(workerData as WorkerSetup);
