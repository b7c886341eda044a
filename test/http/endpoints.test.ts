import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Value } from 'typebox/value';
import { Info, ModelDetail, ModelList } from '../../src/http/schemas.js';
import { fakeServer } from '../fakes.js';

test('models: the list as OpenAI clients read it, and each with provenance and quality', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  const list = (await app.inject('/v1/models')).json();
  assert.ok(Value.Check(ModelList, list));
  assert.equal(list.data[0]?.max_model_len, 17);
  const detail = (await app.inject('/v1/models/fake')).json();
  assert.ok(Value.Check(ModelDetail, detail));
  assert.deepEqual(detail.halting, { max_steps: 8, threshold: 0.99 });
  assert.deepEqual(detail.provenance, { licence: 'Apache-2.0', trained: { steps: 3 } });
  assert.deepEqual(detail.quality, { bitsPerByte: 1.5 });
  const spans = (await app.inject('/v1/models/span-lm-bytes')).json();
  assert.ok(Value.Check(ModelDetail, spans));
  assert.deepEqual([spans.max_model_len, spans.halting, spans.span?.span_max], [null, undefined, 64]);
  const missing = await app.inject('/v1/models/none');
  assert.equal(missing.statusCode, 404);
  assert.equal(missing.json().error.code, 'UNKNOWN_MODEL');
});

test('models: task, languages and limits of each', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  const [scorer, translator] = (await app.inject('/v1/models')).json().data;
  const common = { inputs: 1024, text_bytes: 1_048_576, deadline_ms: 600_000 };
  assert.deepEqual([scorer.task, scorer.language, scorer.target_language], ['score', 'en', null]);
  assert.deepEqual(scorer.limits, { ...common, max_steps: 8, top_logprobs: 20, stride: 16 });
  assert.deepEqual([translator.task, translator.language, translator.target_language], ['translate', 'en', 'de']);
  assert.deepEqual(translator.limits, { ...common, max_steps: 6, beam: 8, alternatives: 7, max_new_tokens: 128 });
});

test('info: version, options in force, device, refused packages', async (t) => {
  const { app, engine } = await fakeServer(['--threads', '3'], {
    refused: () => [{ id: 'bad', reason: 'wrong hash' }],
  });
  t.after(() => app.close());
  engine.restarts = 2;
  const info = (await app.inject('/v1/info')).json();
  assert.ok(Value.Check(Info, info), JSON.stringify(info));
  assert.equal(info.options.threads, 3);
  assert.deepEqual([info.device, info.device_reason, info.device_memory], ['cpu', 'a fake', null]);
  engine.deviceMemory = { usedBytes: 3 * 2 ** 30, totalBytes: 80 * 2 ** 30 };
  const onDevice = (await app.inject('/v1/info')).json();
  assert.deepEqual(onDevice.device_memory, { used_bytes: 3 * 2 ** 30, total_bytes: 80 * 2 ** 30 });
  assert.equal(info.engine_restarts, 2);
  assert.deepEqual(info.refused_models, [{ id: 'bad', reason: 'wrong hash' }]);
  assert.match(info.version, /^\d+\.\d+\.\d+/);
});

test('metrics: text format, with the requests by route and outcome and no text of a client', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  await app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'a', model: 'secret-name' } });
  await app.inject({ method: 'POST', url: '/v1/score', payload: { input: 'abc' } });
  await app.inject('/secret-path');
  await app.inject('/v1/models/secret-model');
  const reply = await app.inject('/metrics');
  assert.match(String(reply.headers['content-type']), /^text\/plain; version=0\.0\.4/);
  assert.match(reply.body, /ponder_requests_total\{route="\/v1\/score",outcome="UNKNOWN_MODEL"\} 1/);
  assert.match(reply.body, /ponder_requests_total\{route="\/v1\/score",outcome="OK"\} 1/);
  assert.match(reply.body, /ponder_requests_total\{route="none",outcome="NOT_FOUND"\} 1/);
  assert.match(reply.body, /ponder_tokens_total\{model="fake"\} 3/);
  assert.match(reply.body, /ponder_request_duration_seconds_bucket\{le="0.0005",model="fake",phase="queue"\} 1/);
  assert.match(reply.body, /ponder_steps_per_token_count\{model="fake",stage="score"\} 3/);
  assert.match(reply.body, /ponder_requests_in_work 0/);
  assert.doesNotMatch(reply.body, /secret/);
});

test('the documentation is served with a content security policy, without reaching outside', async (t) => {
  const { app } = await fakeServer();
  t.after(() => app.close());
  const page = await app.inject('/docs');
  assert.equal(page.statusCode, 200);
  assert.ok(page.headers['content-security-policy']);
  assert.doesNotMatch(page.body, /src="https?:/);
  assert.equal((await app.inject('/docs/json')).json().openapi, '3.1.0');
});
