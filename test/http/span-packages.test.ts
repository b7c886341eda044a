/** Models with attention spans over HTTP, with real weights: the package in git, and one of dynamic spans that is exported here. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Value } from 'typebox/value';
import { SpanScoreReply } from '../../src/http/span-schemas.js';
import { pythonWith } from '../clients/python.js';
import { type RealServer, realServer } from '../real-server.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const LIMITED = { timeout: 240_000 };
const TEXT = 'The span of attention is learnt: most heads look at a few characters. '.repeat(8);

async function serve(t: TestContext, argv: readonly string[]): Promise<RealServer> {
  const server = await realServer(['--threads', '1', ...argv]);
  t.after(() => server.close());
  return server;
}

async function score({ post }: RealServer, body: object): Promise<SpanScoreReply> {
  const reply = await post('/v1/score', body);
  const parsed = (await reply.json()) as SpanScoreReply;
  assert.ok(Value.Check(SpanScoreReply, parsed), JSON.stringify(parsed).slice(0, 500));
  return parsed;
}

interface Event {
  readonly type: string;
  readonly tokens: readonly object[];
  readonly usage: object;
}

async function stream({ post }: RealServer, body: object): Promise<Event[]> {
  const text = await (await post('/v1/score', { ...body, stream: true })).text();
  assert.match(text, /data: \[DONE\]\n\n$/);
  return text
    .split('\n\n')
    .filter((block) => block.startsWith('data: {'))
    .map((block) => JSON.parse(block.slice(6)));
}

test('span-lm-bytes: a text, its blocks, its parts and its caps agree', LIMITED, async (t) => {
  const server = await serve(t, ['--model-list', 'span-lm-bytes']);
  const whole = await score(server, { input: TEXT, top_logprobs: 2 });
  assert.equal(whole.results[0]?.tokens?.length, TEXT.length);
  assert.ok((whole.results[0]?.bits_per_byte ?? 9) < 1.5, 'it reads English, and sees repetition');
  assert.ok(whole.usage.keys < whole.usage.keys_full / 8);
  const events = await stream(server, { input: TEXT, top_logprobs: 2 });
  assert.ok(events.length > 4);
  assert.deepEqual(
    events.flatMap(({ tokens = [] }) => tokens),
    whole.results[0]?.tokens,
  );
  assert.deepEqual(events.at(-1)?.usage, whole.usage);

  const first = await score(server, { input: TEXT.slice(0, 300), session: 's', session_begin: true });
  const second = await score(server, { input: TEXT.slice(300), session: 's', session_end: true });
  const parts = [first, second].reduce((sum, { results }) => sum + (results[0]?.logprob ?? 0), 0);
  // Other blocks, so other orders of summation before int8 rounds.
  assert.ok(Math.abs(parts / (whole.results[0]?.logprob ?? 0) - 1) < 0.005);

  const capped = await score(server, { input: TEXT, span_max: 16, span_cost: true, return_tokens: false });
  assert.ok((capped.results[0]?.span.cost?.logprob ?? 0) > 1);
  assert.ok((capped.results[0]?.span.mean ?? 99) <= 48);
  const metrics = await server.metrics();
  assert.match(metrics, /ponder_span_bound_share\{model="span-lm-bytes",stage="score"\} 0\.\d/);
  assert.match(metrics, /ponder_attention_keys_full_total\{model="span-lm-bytes",stage="score"\} \d{6,}/);
});

test('two requests of one session at once: one is told to wait', LIMITED, async (t) => {
  const server = await serve(t, ['--model-list', 'span-lm-bytes']);
  await score(server, { input: 'a', session: 's', session_begin: true });
  const body = { input: TEXT.repeat(4), session: 's', return_tokens: false };
  const statuses = (await Promise.all([server.post('/v1/score', body), server.post('/v1/score', body)])).map(
    ({ status }) => status,
  );
  assert.deepEqual(statuses.toSorted(), [200, 409]);
});

test('a session that is idle too long is gone, and so is its cache', LIMITED, async (t) => {
  const server = await serve(t, ['--model-list', 'span-lm-bytes', '--session-idle-ms-max', '50']);
  const freed = new Promise<void>((resolve) => {
    server.engine.onTelemetry(({ stages, slotsUsed }) => {
      if (stages.some(({ span }) => span?.sessionsOpen === 0) && slotsUsed === 0) resolve();
    });
  });
  await score(server, { input: 'a', session: 's', session_begin: true });
  await freed;
  const late = await server.post('/v1/score', { input: 'b', session: 's' });
  assert.equal(late.status, 404);
  assert.match(((await late.json()) as { error: { message: string } }).error.message, /idle for 50 ms/);
});

test('a long text beside a short one: the short one is answered first', LIMITED, async (t) => {
  const server = await serve(t, ['--model-list', 'span-lm-bytes']);
  const order: string[] = [];
  const long = score(server, { input: TEXT.repeat(6), return_tokens: false }).then(() => order.push('long'));
  const short = score(server, { input: 'short', return_tokens: false }).then(() => order.push('short'));
  await Promise.all([long, short]);
  assert.deepEqual(order, ['short', 'long']);
});

const python = pythonWith(['torch', 'onnx', 'safetensors']);

test('dynamic spans, exported and served with the same operators: each token has its own', {
  ...LIMITED,
  skip: 'missing' in python ? python.missing : false,
}, async (t) => {
  if ('missing' in python) return;
  const folder = mkdtempSync(join(tmpdir(), 'ponder-dynamic-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const checkpoint = join(ROOT, 'export/train/checkpoints/span-lm-bytes-dynamic.int8.safetensors');
  const target = join(folder, 'dynamic');
  execFileSync(python.python, [join(ROOT, 'export/export.py'), checkpoint, target], { stdio: 'ignore' });
  const server = await serve(t, ['--models', folder, '--span-lanes-max', '4', '--sessions-max', '2']);
  const { results, usage } = await score(server, { input: TEXT });
  const spans = results[0]?.tokens?.map(({ span }) => span ?? Number.NaN) ?? [];
  assert.ok(spans.every((span) => span >= 33 && span <= 1024));
  assert.ok(new Set(spans).size > 100, 'they differ from token to token');
  const mean = spans.reduce((sum, span) => sum + span, 0) / spans.length;
  assert.ok(Math.abs(mean - (results[0]?.span.mean ?? 0)) < 0.1);
  assert.ok(mean > 60 && mean < 200, `mean span ${mean}`);
  assert.equal(usage.keys_full, TEXT.length * 32 * 1024);
  assert.ok((results[0]?.bits_per_byte ?? 9) < 1.6);
  const capped = await score(server, { input: TEXT, span_max: 20, span_cost: true });
  assert.ok(capped.results[0]?.tokens?.every(({ span = 99 }) => span <= 52));
  assert.ok((capped.results[0]?.span.cost?.logprob ?? 0) > 0);
  const events = await stream(server, { input: TEXT });
  assert.deepEqual(
    events.flatMap(({ tokens = [] }) => tokens),
    results[0]?.tokens,
  );
});
