/** Several processes at one port: they share the work, stop in order, and tell their metrics as one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Scrape, scrape, startServer } from '../../loadtest/server.js';
import { coresOf, threadsOf } from '../../src/cli/cluster.js';
import type { FromWorker, ToWorker } from '../../src/cli/cluster-messages.js';
import { ClusterWorker } from '../../src/cli/cluster-worker.js';
import { aggregateMetrics, exportMetrics } from '../../src/metrics/aggregate.js';
import { createMetrics } from '../../src/metrics/metrics.js';

test('cores are dealt out evenly, and to nobody when there are too few', () => {
  const of = (workers: number, threads: number, cores: number) =>
    Array.from({ length: workers }, (_, i) => coresOf(i, workers, threads, cores));
  assert.deepEqual(of(2, 1, 2), ['0', '1']);
  assert.deepEqual(of(2, 2, 8), ['0-3', '4-7']);
  assert.deepEqual(of(3, 1, 8), ['0-1', '2-3', '4-5']);
  assert.deepEqual(of(2, 2, 2), [null, null]);
  assert.equal(threadsOf({ workers: 3, threads: 8 }, false), 2);
  assert.equal(threadsOf({ workers: 4, threads: 2 }, false), 1);
  assert.equal(threadsOf({ workers: 4, threads: 2 }, true), 2);
});

function metricsOf(requests: number, ready: boolean) {
  const sources = {
    requestsInWork: () => 2,
    engineRestarts: () => 1,
    engineReady: () => ready,
    backlogSeconds: () => requests,
  };
  const metrics = createMetrics(sources, { latencyBucketsMs: [1, 10], processMetrics: false });
  metrics.requests.inc({ route: '/v1/score', outcome: 'OK' }, requests);
  metrics.haltingStep.add({ model: 'm', stage: 'score' }, [requests, 1], 5);
  for (const share of [metrics.realisedBoundShare, metrics.spanBoundShare])
    share.set({ model: 'm', stage: 'score' }, ready ? 1 : 0.5);
  metrics.requestSeconds.observe({ model: 'm', phase: 'total' }, 0.005);
  return metrics;
}

test('metrics of several processes: counts add up, what is a mean stays one, ready means all', async () => {
  const both = [metricsOf(3, true), metricsOf(5, false)];
  const exported = await Promise.all(both.map(({ registry }) => exportMetrics(registry)));
  // They cross from one process to another as JSON.
  const all = new Scrape(await aggregateMetrics(JSON.parse(JSON.stringify(exported)) as object[]));
  assert.equal(all.sum('ponder_requests_total', 'outcome="OK"'), 8);
  assert.equal(all.sum('ponder_requests_in_work'), 4);
  assert.equal(all.sum('ponder_engine_restarts_total'), 2);
  assert.equal(all.sum('ponder_halting_step_bucket', 'le="1"'), 8);
  assert.equal(all.sum('ponder_halting_step_sum'), 10);
  assert.equal(all.sum('ponder_request_duration_seconds_count'), 2);
  assert.equal(all.sum('ponder_backlog_seconds'), 4);
  assert.equal(all.sum('ponder_realised_bound_share'), 0.75);
  assert.equal(all.sum('ponder_span_bound_share'), 0.75);
  assert.equal(all.sum('ponder_engine_ready'), 0);
});

test('a worker answers a collection, asks for all, and falls back on its own when nobody answers', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const sent: FromWorker[] = [];
  let tell: (message: ToWorker | string) => void = () => {};
  let stopped = false;
  const channel = {
    send: (message: FromWorker) => void sent.push(message),
    on: (_: 'message', listener: (message: unknown) => void) => {
      tell = listener;
    },
  };
  const worker = new ClusterWorker(channel, metricsOf(3, true), () => {
    stopped = true;
  });
  tell('a message of somebody else');
  tell({ ponder: 'collect', collection: 7 });
  await new Promise(setImmediate);
  assert.equal(sent[0]?.ponder === 'metrics' && sent[0].collection, 7);
  const scraped = worker.scrape();
  const asked = sent[1];
  assert.ok(asked?.ponder === 'scrape');
  tell({ ponder: 'scraped', id: asked.id, text: 'all of them' });
  assert.equal(await scraped, 'all of them');
  const alone = worker.scrape();
  t.mock.timers.tick(2000);
  assert.match(await alone, /ponder_requests_total\{route="\/v1\/score",outcome="OK"\} 3/);
  assert.equal(stopped, false);
  tell({ ponder: 'stop' });
  assert.equal(stopped, true);
});

test('when no worker can start, the command fails', { timeout: 60_000 }, () => {
  const main = fileURLToPath(new URL('../../src/main.js', import.meta.url));
  const argv = [main, 'serve', '--workers', '2', '--port', '0', '--models', '/nowhere'];
  const { status, stderr } = spawnSync(process.execPath, argv, { encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /cannot read the models folder \/nowhere.*set --models/);
  assert.match(stderr, /no worker could start/);
});

test('two processes at one port: whoever is scraped tells of all, and SIGTERM ends both with 0', {
  timeout: 120_000,
}, async (t) => {
  const server = await startServer(['--workers', '2', '--model-list', 'ut-lm-en']);
  t.after(() => server.stop());
  const requests = 24;
  for (let i = 0; i < requests; i++) {
    const reply = await fetch(`${server.url}/v1/score`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', connection: 'close' },
      body: '{"input":"The house is small.","return_tokens":false}',
    });
    assert.equal(reply.status, 200);
    await reply.arrayBuffer();
  }
  for (let i = 0; i < 8; i++) {
    const now = await scrape(server.url);
    assert.equal(now.sum('ponder_requests_total', 'route="/v1/score"', 'outcome="OK"'), requests);
    assert.equal(now.sum('ponder_engine_ready'), 1, 'all are ready');
  }
  const info = (await (await fetch(`${server.url}/v1/info`)).json()) as {
    options: { workers: number; threads: number };
  };
  assert.equal(info.options.workers, 1, 'what a worker says of itself');
  assert.equal(await server.stop(), 0);
});
