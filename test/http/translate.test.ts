import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Value } from 'typebox/value';
import { type TranslateBody, TranslateReply } from '../../src/http/translate-schemas.js';
import { depthOf, describeTranslator, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

async function translate(server: FakeServer, body: TranslateBody): Promise<TranslateReply> {
  const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', payload: body });
  assert.equal(reply.statusCode, 200, reply.body);
  const parsed = reply.json<TranslateReply>();
  assert.ok(Value.Check(TranslateReply, parsed), JSON.stringify(Value.Errors(TranslateReply, parsed)));
  return parsed;
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

test('a text: its translation, the tokens of both sides with their depths, and the sums over them', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { model, results, usage } = await translate(server, { input: 'Abc' });
  const [result] = results;
  assert.equal(model, 'fake-mt');
  assert.equal(result?.index, 0);
  assert.equal(result?.text, 'aBC');
  assert.deepEqual(result?.alternatives, []);
  assert.equal(result?.finish_reason, 'stop');
  assert.deepEqual(
    result?.tokens?.slice(0, 3).map(({ id, text, depth }) => [id, text, depth]),
    [...'aBC'].map((text) => [text.charCodeAt(0), text, depthOf(text.charCodeAt(0), 1, 6)]),
  );
  assert.deepEqual(
    result?.source_tokens?.slice(0, 3).map(({ id, text, depth }) => [id, text, depth]),
    [...'Abc'].map((text) => [text.charCodeAt(0), text, depthOf(text.charCodeAt(0), 1, 6)]),
  );
  // Each side has three letters and the end of the sentence.
  const depths = (text: string): number[] => [...text, '\u0002'].map((c) => depthOf(c.charCodeAt(0), 1, 6));
  for (const [stack, text] of [
    ['encoder', 'Abc'],
    ['decoder', 'aBC'],
  ] as const) {
    const ponder: TranslateReply['results'][0]['ponder']['encoder'] | undefined = result?.ponder[stack];
    assert.equal(ponder?.mean, sum(depths(text)) / 4);
    assert.equal(ponder?.max, Math.max(...depths(text)));
    assert.equal(ponder?.histogram.length, 7);
    assert.equal(sum(ponder?.histogram ?? []), 4);
  }
  assert.equal(result?.tokens?.length, 3);
  assert.equal(result?.source_tokens?.length, 3);
  assert.equal(usage.source_tokens, 4);
  assert.equal(usage.target_tokens, 4);
  assert.equal(usage.position_steps, sum(depths('Abc')) + sum(depths('aBC')));
  assert.equal(usage.position_steps_fixed, 8 * 6);
});

test('a list is answered in order; what holds nothing to translate comes back as it is', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const input = ['One.', '', ' \t\n ', 'Two.'];
  const { results } = await translate(server, { input });
  assert.deepEqual(
    results.map(({ index, text }) => [index, text]),
    [
      [0, 'oNE.'],
      [1, ''],
      [2, ' \t\n '],
      [3, 'tWO.'],
    ],
  );
  const { finish_reason, ponder, tokens, source_tokens } = results[1] as (typeof results)[0];
  const none = { mean: 0, max: 0, histogram: [0, 0, 0, 0, 0, 0, 0] };
  assert.deepEqual(
    { finish_reason, ponder, tokens, source_tokens },
    {
      finish_reason: 'stop',
      ponder: { encoder: none, decoder: none },
      tokens: [],
      source_tokens: [],
    },
  );
});

test('only nothing to translate: an answer without the engine', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results, usage, timing } = await translate(server, { input: ' ' });
  assert.equal(results[0]?.text, ' ');
  assert.deepEqual(usage, { source_tokens: 0, target_tokens: 0, position_steps: 0, position_steps_fixed: 0 });
  assert.equal(timing.first_token_ms, 0);
});

test('budgets, beam and length penalty reach the engine; what is left out is the default of the model', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  await translate(server, { input: 'a' });
  await translate(server, {
    input: 'a',
    max_steps: 4,
    min_steps: 2,
    threshold: 0.5,
    encoder: { max_steps: 3, threshold: 0.6 },
    decoder: { min_steps: 1 },
    beam: 4,
    length_penalty: 0,
    max_new_tokens: 9,
    deadline_ms: 60_000,
  });
  const [first, second] = server.engine.translations;
  const own = { maxSteps: 6, minSteps: 1, threshold: 0.99 };
  assert.deepEqual([first?.encoderBudget, first?.decoderBudget], [own, own]);
  assert.deepEqual([first?.beam, first?.lengthPenalty, first?.deadlineAtMs], [1, 1, null]);
  assert.deepEqual(second?.encoderBudget, { maxSteps: 3, minSteps: 2, threshold: 0.6 });
  assert.deepEqual(second?.decoderBudget, { maxSteps: 4, minSteps: 1, threshold: 0.5 });
  assert.deepEqual([second?.beam, second?.lengthPenalty, second?.maxNewTokens], [4, 0, [9]]);
  assert.ok((second?.deadlineAtMs ?? 0) > 0);
});

test('alternatives raise the beam when none is given, and come best first', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results } = await translate(server, { input: 'Abc', alternatives: 2 });
  assert.equal(server.engine.translations[0]?.beam, 3);
  assert.deepEqual(
    results[0]?.alternatives.map(({ text }) => text),
    ['aBC!', 'aBC!!'],
  );
  const scores = results[0]?.alternatives.map(({ score }) => score) ?? [];
  assert.ok((scores[0] as number) > (scores[1] as number));
});

test('max_new_tokens ends a translation, and finish_reason says so', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results } = await translate(server, { input: 'Abcdef', max_new_tokens: 3 });
  assert.equal(results[0]?.finish_reason, 'length');
  assert.equal(results[0]?.text, 'aBC');
});

test('return_tokens false keeps the sums', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results, usage } = await translate(server, { input: 'hello', return_tokens: false });
  assert.ok(results[0] !== undefined && !('tokens' in results[0]) && !('source_tokens' in results[0]));
  assert.ok(usage.source_tokens > 0);
});

test('html: tags stay where they are', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const { results } = await translate(server, { input: '<p>Hello</p>', format: 'html' });
  assert.equal(results[0]?.text, '<p>hELLO</p>');
});

test('a large reply is streamed, and is the same JSON', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const input = new Array(60).fill('A sentence of some words.');
  const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input } });
  assert.equal(reply.headers['content-length'], undefined, 'streamed');
  const parsed = reply.json<TranslateReply>();
  assert.ok(Value.Check(TranslateReply, parsed));
  const sizes = (list: 'tokens' | 'source_tokens') => sum(parsed.results.map((result) => result[list]?.length ?? 0));
  assert.equal(sizes('tokens') + 60, parsed.usage.target_tokens);
  assert.equal(sizes('source_tokens') + 60, parsed.usage.source_tokens);
});

test('timing is in the body and in the headers', async (t) => {
  const server = await fakeServer();
  t.after(() => server.app.close());
  const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input: 'x' } });
  const { timing } = reply.json<TranslateReply>();
  assert.equal(timing.queue_ms, 0.25);
  assert.ok(timing.total_ms >= timing.first_token_ms && timing.first_token_ms > 0);
  assert.equal(
    reply.headers['server-timing'],
    `queue;dur=0.25, tokenize;dur=${timing.tokenize_ms}, compute;dur=${timing.compute_ms}, total;dur=${timing.total_ms}`,
  );
  assert.match(String(reply.headers['x-inference-time']), /^\d+$/);
});

test('the model is found by its languages; where they leave several, the name is needed', async (t) => {
  const engine = new FakeEngine([
    describeTranslator({ id: 'ende' }),
    describeTranslator({ id: 'enfr', targetLanguage: 'fr' }),
    describeTranslator({ id: 'enfr-large', targetLanguage: 'fr' }),
  ]);
  const server = await fakeServer([], { engine });
  t.after(() => server.app.close());
  assert.equal((await translate(server, { input: 'x', target: 'de' })).model, 'ende');
  assert.equal((await translate(server, { input: 'x', model: 'enfr', target: 'fr' })).model, 'enfr');
  const refusal = async (body: object) =>
    (await server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input: 'x', ...body } })).json().error;
  assert.equal((await refusal({ target: 'fr' })).message, 'model is required: one of enfr, enfr-large');
  assert.equal((await refusal({})).message, 'model is required: one of ende, enfr, enfr-large');
  const unserved = await refusal({ source: 'en', target: 'it' });
  assert.equal(unserved.param, 'target');
  assert.equal(unserved.message, 'en to it is not served: the pairs are en to de, en to fr');
  const named = await refusal({ model: 'ende', target: 'fr' });
  assert.equal(named.message, 'any language to fr is not served: the pairs are en to de');
});

test('a deadline, a full queue and a lost engine are answered as for scoring', async (t) => {
  const server = await fakeServer(['--requests-max', '1']);
  t.after(() => server.app.close());
  server.engine.shutGate();
  const post = () => server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input: 'a' } });
  const first = post();
  await server.engine.arrived(1);
  const refused = await post();
  assert.equal(refused.statusCode, 429);
  assert.equal(refused.headers['retry-after'], '1');
  server.engine.openGate();
  assert.equal((await first).statusCode, 200);
  server.engine.state = 'restarting';
  assert.equal((await post()).json().error.code, 'NOT_READY');
  assert.equal(server.admission.requestsInWork, 0);
});

test('what the engine returns must be numbers: JSON could not say anything else', async (t) => {
  const engine = new FakeEngine();
  const server = await fakeServer([], { engine });
  t.after(() => server.app.close());
  const { translate: honest } = engine;
  engine.translate = async (...call) => {
    const outcome = await honest.apply(engine, call);
    outcome.sentences[0]?.hypotheses[0]?.logprobs.fill(Number.NaN);
    return outcome;
  };
  const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', payload: { input: 'a' } });
  assert.equal(reply.statusCode, 500);
  assert.equal(reply.json().error.code, 'INTERNAL');
});
