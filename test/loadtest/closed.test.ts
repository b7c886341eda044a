import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../loadtest/closed.js';
import type { LoadResult } from '../../loadtest/closed-load.js';
import { disagreements, memoryTrend } from '../../loadtest/closed-report.js';
import { Scrape } from '../../loadtest/server.js';
import { recordedIo } from '../cli/streams.js';

test('a scrape is summed by name and labels', () => {
  const scrape = new Scrape(
    [
      '# HELP requests_total Requests.',
      'requests_total{route="/v1/score",outcome="OK"} 5',
      'requests_total{route="/v1/score",outcome="QUEUE_FULL"} 2',
      'requests_total{route="/health/live",outcome="OK"} 11',
      'lag_seconds 1.5e-3',
    ].join('\n'),
  );
  assert.equal(scrape.sum('requests_total', 'route="/v1/score"'), 7);
  assert.equal(scrape.sum('requests_total', 'route="/v1/score"', 'outcome="OK"'), 5);
  assert.equal(scrape.sum('lag_seconds'), 0.0015);
  assert.equal(scrape.sum('requests'), 0);
});

test('every request has exactly one answer, and both sides count the same', () => {
  const load: LoadResult = {
    seconds: 1,
    answers: 4,
    ok: 4,
    errors: 0,
    tokens: 40,
    tokensSent: 40,
    latenciesMs: [],
    refusal: null,
  };
  assert.deepEqual(disagreements(load, { ok: 4, others: 0, tokens: 40 }, 4), []);
  assert.deepEqual(disagreements({ ...load, ok: 3, tokens: 30 }, { ok: 3, others: 1, tokens: 40 }, 4), [
    'answers 200 at the client: 3 instead of 4',
    'other requests at the server: 1 instead of 0',
    'tokens in the answers: 30 instead of 40',
    'tokens at the server: 40 instead of 30',
  ]);
});

test('memory that wobbles is flat, memory that climbs is not', () => {
  const trend = (mib: readonly number[]) =>
    memoryTrend(mib.map((value, i) => ({ requests: (i + 1) * 1000, residentBytes: value * 2 ** 20 })));
  assert.equal(trend([200, 202, 199, 201, 200]).flat, true);
  const climbing = trend([200, 203, 206, 209]);
  assert.equal(climbing.flat, false);
  assert.equal(climbing.bytesPerThousandRequests, 3 * 2 ** 20);
  assert.equal(climbing.growthBytes, 9 * 2 ** 20);
});

test('end to end: a server of its own, two rounds beside the engine alone, and all counts agree', async () => {
  const io = recordedIo();
  const argv = '--connections 4 --seconds 1 --rounds 2 --length 8 --threads 1 --json'.split(' ');
  assert.equal(await run(argv, io), 0, io.stderr.text);
  const result = JSON.parse(io.stdout.text) as {
    requests: number;
    http: { load: LoadResult; liveness: { latenciesMs: number[]; failures: number } }[];
    engine: { tokens: number }[];
    problems: string[];
    residentIdleBytes: number;
  };
  assert.deepEqual(result.problems, []);
  assert.deepEqual(
    result.http.map(({ load }) => [load.answers, load.tokens]),
    result.engine.map(({ tokens }) => [result.requests, tokens]),
  );
  assert.ok(result.http.every(({ liveness }) => liveness.failures === 0 && liveness.latenciesMs.length > 0));
  assert.ok(result.residentIdleBytes > 0);
});

test('end to end: memory over blocks of requests', async () => {
  const io = recordedIo();
  assert.equal(await run('--connections 2 --requests 20 --length 4 --threads 1'.split(' '), io), 0, io.stderr.text);
  assert.match(io.stdout.text, /^ *20 +\d+\.\d MiB$/m);
  assert.match(io.stdout.text, /KiB per 1,000 requests/);
});
