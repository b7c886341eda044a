import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough } from 'node:stream';
import { json } from 'node:stream/consumers';
import { test } from 'node:test';
import { readTraceParent } from '../../src/metrics/trace-context.js';
import { openTraces } from '../../src/metrics/traces.js';
import { fakeServer } from '../fakes.js';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';

test('trace context: what the standard allows is read, the rest is ignored', () => {
  assert.deepEqual(readTraceParent(`00-${TRACE}-${SPAN}-01`), { traceId: TRACE, spanId: SPAN, sampled: true });
  assert.equal(readTraceParent(`00-${TRACE}-${SPAN}-00`)?.sampled, false);
  assert.equal(readTraceParent(`cc-${TRACE}-${SPAN}-01-what-comes-later`)?.traceId, TRACE);
  const ignored = [
    undefined,
    '',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE}-${SPAN}`,
  ];
  for (const header of ignored) assert.equal(readTraceParent(header), null, header);
});

interface Span {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status: { readonly code?: number };
}

test('a request is a span of its trace, with its phases within; a collector gets them', async (t) => {
  const spans: Span[] = [];
  const collector = createServer(async (request, response) => {
    const sent = (await json(request)) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] };
    for (const { scopeSpans } of sent.resourceSpans) for (const scope of scopeSpans) spans.push(...scope.spans);
    response.setHeader('content-type', 'application/json').end('{}');
  }).listen(0, '127.0.0.1');
  await once(collector, 'listening');
  t.after(() => collector.close());
  const traces = openTraces(`http://127.0.0.1:${(collector.address() as AddressInfo).port}/v1/traces`);
  const { app } = await fakeServer([], { traces });
  t.after(() => app.close());
  const traceparent = `00-${TRACE}-${SPAN}-01`;
  const post = (payload: object) => app.inject({ method: 'POST', url: '/v1/score', payload, headers: { traceparent } });
  assert.equal((await post({ input: 'abc' })).statusCode, 200);
  assert.equal((await post({ input: '' })).statusCode, 422);
  await app.inject('/health/live');
  await traces.stop();

  assert.deepEqual(spans.map(({ name }) => name).sort(), [
    'POST /v1/score',
    'POST /v1/score',
    'queue',
    'reply',
    'steps',
    'tokenize',
  ]);
  const [good, bad] = spans.filter(({ name }) => name === 'POST /v1/score');
  assert.ok(good !== undefined && bad !== undefined);
  assert.ok(spans.every(({ traceId }) => traceId === TRACE));
  assert.deepEqual([good.parentSpanId, bad.parentSpanId], [SPAN, SPAN]);
  assert.equal(bad.status.code, 2, 'what was refused is an error');
  const phases = spans.filter(({ parentSpanId }) => parentSpanId === good.spanId);
  assert.equal(phases.length, 4);
  for (const { name, startTimeUnixNano, endTimeUnixNano } of phases) {
    assert.ok(BigInt(startTimeUnixNano) >= BigInt(good.startTimeUnixNano), name);
    assert.ok(BigInt(endTimeUnixNano) >= BigInt(startTimeUnixNano), name);
  }
});

test('log lines of a request carry its id and its trace', async (t) => {
  const stream = new PassThrough();
  let log = '';
  stream.setEncoding('utf8').on('data', (chunk) => {
    log += chunk;
  });
  const { app } = await fakeServer([], { logger: { level: 'debug', stream } });
  t.after(() => app.close());
  const headers = { traceparent: `00-${TRACE}-${SPAN}-01`, 'x-request-id': 'mine' };
  await app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'abc' }, headers });
  await app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'abc' } });
  await new Promise(setImmediate);
  const left = log
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ msg }) => msg === 'request left');
  assert.equal(left.length, 2);
  assert.deepEqual(
    [left[0]?.reqId, left[0]?.traceId, left[0]?.parentSpanId, left[0]?.outcome],
    ['mine', TRACE, SPAN, 'OK'],
  );
  assert.equal(left[1]?.traceId, undefined);
});
