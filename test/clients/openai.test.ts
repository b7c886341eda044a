/** openai from npm and from PyPI, unchanged, against the server. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';
import { type Listening, listeningServer } from './listening.js';
import { pythonWith, runClient } from './python.js';

let server: Listening;
let client: OpenAI;
before(async () => {
  server = await listeningServer();
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
});
after(() => server.close());

test('npm openai: models, completion with log-probabilities, the field ponder', async () => {
  const models = await client.models.list();
  assert.deepEqual(
    models.data.map(({ id }) => id),
    server.engine.models().map(({ id }) => id),
  );
  const completion = await client.completions.create({
    model: 'fake',
    prompt: 'abc',
    temperature: 0,
    max_tokens: 2,
    logprobs: 1,
    echo: true,
  });
  assert.equal(completion.choices[0]?.text, 'abcAB');
  assert.equal(completion.choices[0]?.logprobs?.token_logprobs?.length, 5);
  assert.equal(completion.usage?.total_tokens, 5);
  assert.ok((completion as unknown as { ponder: { mean: number } }).ponder.mean > 0);
  assert.ok(completion._request_id);
});

test('npm openai: a stream, and one that its reader leaves', async () => {
  const stream = await client.completions.create({
    model: 'fake',
    prompt: 'hé€',
    temperature: 0,
    max_tokens: 7,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = '';
  let usage = 0;
  for await (const event of stream) {
    text += event.choices[0]?.text ?? '';
    usage = event.usage?.total_tokens ?? usage;
  }
  assert.equal(text, 'Hé€');
  assert.equal(usage, 13);

  const arrivals = server.engine.requests.length + server.engine.generations.length;
  server.engine.shutGate();
  const left = client.completions.create({ model: 'fake', prompt: 'a', stream: true }).asResponse();
  left.catch(() => {}); // it is answered when the gate opens
  await server.engine.arrived(arrivals + 1);
  server.engine.openGate();
  const response = await left;
  await response.body?.cancel();
  while (server.admission.requestsInWork > 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(server.engine.active, 0);
});

test('npm openai: its own error classes', async () => {
  const create = (body: object) => client.completions.create({ model: 'fake', prompt: 'a', ...body } as never);
  await assert.rejects(create({ model: 'none' }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'UNKNOWN_MODEL');
    assert.equal(error.param, 'model');
    return true;
  });
  await assert.rejects(create({ temperature: 9 }), OpenAI.BadRequestError);
  server.engine.state = 'restarting';
  await assert.rejects(create({}), (error) => error instanceof OpenAI.InternalServerError && error.status === 503);
  server.engine.state = 'ready';
  await assert.rejects(client.chat.completions.create({ model: 'fake', messages: [] }), OpenAI.NotFoundError);
});

const found = pythonWith(['openai']);
test('PyPI openai', { skip: 'missing' in found && found.missing }, async () => {
  assert.ok('python' in found);
  const said = (await runClient(found.python, 'openai_client.py', [server.url, 'fake'])) as Record<string, unknown>;
  const logprobOf = (id: number): number => Math.fround(-(1 + (id % 7)) / 3);
  const { ponder, errors, ...rest } = said;
  assert.deepEqual(rest, {
    models: server.engine.models().map(({ id }) => [id, 'model', 'ponder-serve']),
    retrieved: 'fake',
    text: 'abcA',
    token_logprobs: [null, logprobOf(98), logprobOf(99), logprobOf(65)],
    top_logprobs: [null, { b: logprobOf(98) }, { c: logprobOf(99) }, { A: logprobOf(65) }],
    usage: { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 },
    streamed: ['ABé', 'CD'],
    stream_usage: 14,
    stream_ponder: true,
    stopped: ['ABC', 'stop', 2],
    same_seed: true,
  });
  assert.ok((ponder as { mean: number }).mean > 0);
  assert.deepEqual(errors, {
    unknown_model: { class: 'NotFoundError', status: 404, code: 'UNKNOWN_MODEL', param: 'model', request_id: true },
    bad_field: {
      class: 'BadRequestError',
      status: 400,
      code: 'INVALID_REQUEST',
      param: 'max_tokens',
      request_id: true,
    },
    no_chat: { class: 'NotFoundError', status: 404, code: 'NOT_FOUND', param: null, request_id: true },
  });
});
