/** The whole server over real packages, listening, in the process of a test. */
import assert from 'node:assert/strict';
import type { AddressInfo } from 'node:net';
import { type Config, parseConfig } from '../src/config.js';
import { type StartedEngine, startEngine } from '../src/engine/start.js';
import { Admission } from '../src/http/admission.js';
import { buildApp } from '../src/http/app.js';
import { createMetrics } from '../src/metrics/metrics.js';
import { Observer } from '../src/metrics/observe.js';
import { loadModels } from '../src/models/registry.js';
import { loadTokenizer } from '../src/tokenize/tokenizer.js';
import { fakeDetector, fakeServer } from './fakes.js';

export interface RealServer {
  readonly url: string;
  readonly config: Config;
  readonly engine: StartedEngine;
  readonly post: (path: string, body: object, signal?: AbortSignal) => Promise<Response>;
  readonly metrics: () => Promise<string>;
  readonly close: () => Promise<void>;
}

/** @param argv options of serve; every model of the list must be served */
export async function realServer(argv: readonly string[]): Promise<RealServer> {
  const config = parseConfig(argv, {});
  const only = config.modelList.length === 0 ? null : config.modelList;
  const { models, refused } = await loadModels({ folder: config.models, only, precision: config.precision });
  assert.deepEqual(refused, []);
  const engine = await startEngine(config, models);
  const admission = new Admission(config, engine);
  const sources = {
    requestsInWork: () => admission.requestsInWork,
    engineRestarts: () => engine.info().restarts,
    engineReady: () => engine.info().state === 'ready',
    backlogSeconds: () => 0,
  };
  const metrics = createMetrics(sources, { latencyBucketsMs: config.latencyBucketsMs, processMetrics: false });
  const tokenizers = new Map(
    await Promise.all(
      models.map(async ({ id, folder, vocabularySize }) => [id, await loadTokenizer(folder, vocabularySize)] as const),
    ),
  );
  const { deps } = await fakeServer();
  const observer = new Observer(metrics);
  const real = { config, engine, admission, tokenizers, metrics, observer, detector: fakeDetector, logger: false };
  const app = await buildApp({ ...deps, ...real });
  await app.listen({ host: '127.0.0.1', port: 0 });
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  return {
    url,
    config,
    engine,
    post: (path, body, signal) =>
      fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...(signal ? { signal } : {}),
      }),
    metrics: () => metrics.registry.metrics(),
    close: async () => {
      await engine.drain(0);
      app.server.closeAllConnections();
      await app.close();
    },
  };
}
