/** OpenAI's completions over the fake engine, which continues a prompt with itself in the other case, and then the end of text. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import { after, before, test } from 'node:test';
import { Value } from 'typebox/value';
import { ERRORS, type ErrorCode } from '../../src/errors.js';
import { CompletionReply } from '../../src/http/completion-schemas.js';
import { describeModel, describeTranslator, FakeEngine, type FakeServer, fakeServer } from '../fakes.js';

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

const post = (payload: object | string, url = '/v1/completions', to = server) =>
  to.app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json' }, payload });

interface Choice {
  readonly index: number;
  readonly text: string;
  /** Null when they were not asked for. */
  readonly logprobs: {
    readonly tokens: string[];
    readonly token_logprobs: number[];
    readonly top_logprobs: Record<string, number>[];
    readonly text_offset: number[];
    readonly depths?: number[];
  };
  readonly finish_reason: string;
}

interface Completed {
  readonly id: string;
  readonly choices: readonly [Choice, ...Choice[]];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
  readonly ponder?: object;
  readonly quality?: object;
}

async function complete(payload: object, to = server): Promise<Completed> {
  const reply = await post(payload, '/v1/completions', to);
  assert.equal(reply.statusCode, 200, reply.body);
  assert.ok(Value.Check(CompletionReply, reply.json()), reply.body);
  return reply.json();
}

interface Event {
  readonly choices: readonly {
    readonly index: number;
    readonly text: string;
    readonly logprobs: { readonly token_logprobs: number[]; readonly tokens: string[] } | null;
    readonly finish_reason: string | null;
  }[];
  readonly usage?: object | null;
  readonly error?: { readonly code: string };
  readonly [field: string]: unknown;
}

async function events(payload: object): Promise<Event[]> {
  const reply = await post({ stream: true, ...payload });
  assert.equal(reply.statusCode, 200, reply.body);
  assert.match(String(reply.headers['content-type']), /^text\/event-stream/);
  const blocks = reply.body.split('\n\n').filter((block) => block !== '');
  assert.equal(blocks.pop(), 'data: [DONE]');
  return blocks.map((block) => JSON.parse(block.replace(/^data: /, '')));
}

const logprobOf = (id: number): number => Math.fround(-(1 + (id % 7)) / 3);

test('continues a text until its end, with usage and ponder', async () => {
  const body = await complete({ model: 'fake', prompt: 'ab', temperature: 0 });
  assert.deepEqual(body.choices, [{ index: 0, text: 'AB', logprobs: null, finish_reason: 'stop' }]);
  assert.deepEqual(body.usage, { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 });
  assert.match(body.id, /^cmpl-/);
  // A (65), B (66) and the end (2) take 1, 2 and 3 steps; the prompt, 97 and 98, took 3 and 4.
  assert.deepEqual(body.ponder, {
    mean: 2,
    max: 3,
    histogram: [0, 1, 1, 1, 0, 0, 0, 0, 0],
    position_steps: 13,
    position_steps_fixed: 40,
  });
});

test('what the engine is asked for', async () => {
  await complete({
    prompt: ['ab', 'c'],
    max_tokens: 3,
    temperature: 0.5,
    top_p: 0.9,
    seed: -5,
    n: 2,
    logprobs: 4,
    echo: true,
    max_steps: 4,
    min_steps: 2,
    threshold: 0.5,
    deadline_ms: 9000,
    stop: null,
    user: 'ignored',
  });
  const request = server.engine.generations.at(-1);
  assert.ok(request?.deadlineAtMs);
  assert.deepEqual(
    { ...request, deadlineAtMs: null, prompts: request.prompts.map((ids) => [...ids]) },
    {
      model: 'fake',
      prompts: [[97, 98], [97, 98], [99], [99]],
      budget: { maxSteps: 4, minSteps: 2, threshold: 0.5 },
      spanCap: null,
      maxNewTokens: 3,
      temperature: 0.5,
      topP: 0.9,
      seeds: [-5, -4, -5, -4],
      topLogprobs: 4,
      promptLogprobs: true,
      stopIds: [2],
      deadlineAtMs: null,
      tenant: '',
    },
  );
});

test('echo with log-probabilities, as lm-evaluation-harness asks: N + 1 entries, the first one null, the same floats', async () => {
  const ids = [84, 104, 101];
  const request = { model: 'fake', prompt: [ids], temperature: 0, max_tokens: 1, logprobs: 1, seed: 1234, echo: true };
  const { choices } = await complete(request);
  const [choice] = choices;
  assert.equal(choice.text, 'Thet');
  const { tokens, token_logprobs, top_logprobs, text_offset, depths } = choice.logprobs;
  assert.deepEqual(tokens, ['T', 'h', 'e', 't']);
  assert.deepEqual(token_logprobs, [null, logprobOf(104), logprobOf(101), logprobOf(116)]);
  assert.deepEqual(text_offset, [0, 1, 2, 3]);
  assert.deepEqual(depths, [null, 5, 2, 2]);
  // The fake's best candidate is the token itself, with a value of its own; of the generated token it is the very same float.
  assert.deepEqual(top_logprobs, [null, { h: -1 }, { e: -1 }, { t: logprobOf(116) }]);
});

test('an end of text that ends the prompt counts as an entry, but not as text', async () => {
  // The fake says the end of text after an empty prompt.
  const { choices } = await complete({ prompt: '', max_tokens: 1, logprobs: 0, echo: true });
  assert.equal(choices[0].text, '');
  assert.deepEqual(choices[0].logprobs.tokens, ['\x02']);
  assert.equal(choices[0].finish_reason, 'stop');
});

test('a prompt that spells the start of text is not begun twice: its entry is the null', async () => {
  const { choices, usage } = await complete({ prompt: [0, 97, 98], max_tokens: 0, logprobs: 2, echo: true });
  assert.deepEqual([...(server.engine.generations.at(-1)?.prompts[0] ?? [])], [97, 98]);
  assert.deepEqual(choices[0].logprobs.token_logprobs, [null, logprobOf(97), logprobOf(98)]);
  assert.equal(usage.prompt_tokens, 3);
  assert.equal(usage.completion_tokens, 0);
});

test('max_tokens 0 with echo scores only; without echo there is nothing', async () => {
  const scored = await complete({ prompt: 'abc', max_tokens: 0, echo: true, logprobs: 1 });
  assert.deepEqual(scored.choices[0].logprobs.tokens, ['a', 'b', 'c']);
  assert.equal(scored.choices[0].finish_reason, 'length');
  const nothing = await complete({ prompt: 'abc', max_tokens: 0 });
  assert.deepEqual(nothing.choices[0], { index: 0, text: '', logprobs: null, finish_reason: 'length' });
});

test('several prompts and choices: in order, and the tokens of a prompt are counted once', async () => {
  const { choices, usage } = await complete({ prompt: ['ab', 'c'], n: 2, temperature: 0, max_tokens: 2 });
  assert.deepEqual(
    choices.map(({ index, text }) => [index, text]),
    [
      [0, 'AB'],
      [1, 'AB'],
      [2, 'C'],
      [3, 'C'],
    ],
  );
  assert.equal(usage.prompt_tokens, 3);
});

test('the seed decides; another seed, another text', async () => {
  const text = async (seed: number) =>
    (await complete({ prompt: 'abcd', seed, max_tokens: 3, ignore_eos: true })).choices[0].text;
  assert.equal(await text(1), await text(1));
  assert.notEqual(await text(1), await text(2));
});

test('stop strings end a choice across tokens; their tokens are not in the log-probabilities', async () => {
  const body = { prompt: 'abcdef', temperature: 0, stop: ['CD', 'zz'], logprobs: 0 };
  const { choices, usage } = await complete(body);
  assert.equal(choices[0].text, 'AB');
  assert.equal(choices[0].finish_reason, 'stop');
  assert.deepEqual(choices[0].logprobs.tokens, ['A', 'B']);
  // The engine was told to stop when the string was complete.
  assert.equal(usage.completion_tokens, 4);
  const streamed = await events(body);
  assert.equal(streamed.map(({ choices }) => choices[0]?.text).join(''), 'AB');
  assert.deepEqual(
    streamed.flatMap(({ choices }) => choices[0]?.logprobs?.tokens),
    ['A', 'B'],
  );
  assert.equal(streamed.at(-1)?.choices[0]?.finish_reason, 'stop');
});

test('tokens that decode alike keep the larger value, and minus infinity is -9999', async (t) => {
  const engine = new FakeEngine();
  const own = await fakeServer([], { engine });
  t.after(() => own.app.close());
  const generate = engine.generate.bind(engine);
  engine.generate = async (request, signal, listener) => {
    const outcome = await generate(request, signal, listener);
    for (const { tokens } of outcome.sequences) {
      tokens.logprobs.fill(Number.NEGATIVE_INFINITY);
      // Bytes 200 and 201 alone are both U+FFFD.
      tokens.topIds.set([200, 201, 97]);
      tokens.topLogprobs.set([-2, -1, Number.NEGATIVE_INFINITY]);
    }
    return outcome;
  };
  const { choices } = await complete({ prompt: 'ab', temperature: 0, max_tokens: 1, logprobs: 3 }, own);
  assert.deepEqual(choices[0].logprobs.token_logprobs, [-9999]);
  assert.deepEqual(choices[0].logprobs.top_logprobs, [{ '\ufffd': -1, a: -9999, A: -9999 }]);
});

test('a stream: the same text in pieces, whole characters, a usage event, [DONE]', async () => {
  const body = { prompt: 'aé€b', max_tokens: 10, temperature: 0, logprobs: 1, n: 2 };
  const whole = await complete(body);
  const streamed = await events({ ...body, stream_options: { include_usage: true } });
  const last = streamed.pop();
  assert.deepEqual(last?.choices, []);
  assert.deepEqual(last?.usage, whole.usage);
  assert.deepEqual(last?.ponder, whole.ponder);
  for (const { usage, id, object } of streamed) {
    assert.equal(usage, null);
    assert.equal(id, last?.id);
    assert.equal(object, 'text_completion');
  }
  for (const { index, text, finish_reason, logprobs } of whole.choices) {
    const pieces = streamed.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
    assert.equal(pieces.map((piece) => piece.text).join(''), text);
    assert.ok(!text.includes('\ufffd'));
    for (const piece of pieces) assert.ok(!piece.text.includes('\ufffd'));
    assert.equal(pieces.at(-1)?.finish_reason, finish_reason);
    assert.deepEqual(
      pieces.flatMap((piece) => piece.logprobs?.token_logprobs),
      logprobs.token_logprobs,
    );
  }
});

test('a stream with echo begins with the prompt; without include_usage no event has usage', async () => {
  const streamed = await events({ prompt: 'abc', max_tokens: 3, temperature: 0, echo: true });
  assert.equal(streamed.map(({ choices }) => choices[0]?.text).join(''), 'abcABC');
  assert.ok(streamed.every((event) => !('usage' in event)));
  const scored = await events({ prompt: 'abc', max_tokens: 0, temperature: 0, echo: true, logprobs: 1 });
  assert.deepEqual(
    scored.flatMap(({ choices }) => choices[0]?.logprobs?.tokens),
    ['a', 'b', 'c'],
  );
});

test('a stream that fails before its first event has a status; one that fails later ends with the error', async (t) => {
  const own = await fakeServer();
  t.after(() => own.app.close());
  own.engine.failWith(new Error('broken'));
  const early = await post({ prompt: 'a', stream: true }, '/v1/completions', own);
  assert.equal(early.statusCode, 500);
  assert.equal(early.headers['x-should-retry'], 'false');

  own.engine.failWith(null);
  const generate = own.engine.generate.bind(own.engine);
  own.engine.generate = async (request, signal, listener) => {
    await generate(request, signal, listener);
    throw new Error('broken');
  };
  const late = await post({ prompt: 'a', stream: true }, '/v1/completions', own);
  assert.equal(late.statusCode, 200);
  assert.match(late.body, /"error":\{"code":"INTERNAL".*\n\n$/);
  assert.doesNotMatch(late.body, /DONE/);
});

test('a closed stream frees its lane; a reader that waits costs no events', async (t) => {
  const own = await fakeServer();
  await own.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    own.app.server.closeAllConnections();
    await own.app.close();
  });
  own.engine.shutGate();
  const socket = connect((own.app.server.address() as AddressInfo).port, '127.0.0.1');
  await once(socket, 'connect');
  const payload = JSON.stringify({ prompt: 'a', stream: true });
  socket.write(
    `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${payload.length}\r\n\r\n${payload}`,
  );
  await own.engine.arrived(1);
  assert.equal(own.engine.active, 1);
  socket.destroy();
  while (own.engine.active > 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(own.admission.requestsInWork, 0);
});

const BAD: readonly (readonly [string, object | string, string | null, RegExp, ErrorCode?])[] = [
  ['no prompt', {}, 'prompt', /^prompt is required: a text, a list of texts/],
  ['a null prompt', { prompt: null }, 'prompt', /prompt is required/],
  ['an empty list', { prompt: [] }, 'prompt', /prompt is an empty list/],
  ['a number', { prompt: 3 }, 'prompt', /not an integer/],
  ['mixed prompts', { prompt: ['a', [1]] }, 'prompt', /prompt\[0\] is a text but prompt\[1\] is a list/],
  ['an id out of range', { prompt: [[5], [257]] }, 'prompt[1]', /token id 257/],
  ['a lone surrogate', '{"prompt":"\\ud800"}', 'prompt', /lone surrogate/],
  ['too many choices', { prompt: new Array(100).fill('a'), n: 16 }, 'prompt', /1600 texts, at most 1024/],
  ['n 17', { prompt: 'a', n: 17 }, 'n', /from 1 to 16/],
  ['max_tokens -1', { prompt: 'a', max_tokens: -1 }, 'max_tokens', /at least 0/],
  [
    'a prompt beyond the context',
    { prompt: 'a'.repeat(18) },
    'prompt',
    /18 tokens, more than .* 17 tokens; shorten the prompt$/,
  ],
  [
    'prompt and max_tokens beyond the context',
    { prompt: 'a'.repeat(10), max_tokens: 8 },
    'max_tokens',
    /lower max_tokens/,
  ],
  [
    'a prompt beyond the context that is only scored',
    { prompt: 'a'.repeat(18), max_tokens: 0, echo: true, logprobs: 1 },
    'prompt',
    /score it with POST \/v1\/score/,
  ],
  ['temperature 3', { prompt: 'a', temperature: 3 }, 'temperature', /a number from 0 to 2/],
  ['top_p 0', { prompt: 'a', top_p: 0 }, 'top_p', /above 0 and at most 1/],
  ['logprobs 21', { prompt: 'a', logprobs: 21 }, 'logprobs', /from 0 to 20/],
  ['logprobs true', { prompt: 'a', logprobs: true }, 'logprobs', /an integer/],
  ['a fraction as seed', { prompt: 'a', seed: 1.5 }, 'seed', /an integer/],
  ['17 stops', { prompt: 'a', stop: new Array(17).fill('x') }, 'stop', /17 texts, at most 16/],
  ['a long stop', { prompt: 'a', stop: 'x'.repeat(1025) }, 'stop', /1025 characters, at most 1024/],
  ['a number as stop', { prompt: 'a', stop: 3 }, 'stop', /a text or a list of texts/],
  ['a suffix', { prompt: 'a', suffix: 'b' }, 'suffix', /not supported: leave it out/],
  ['best_of', { prompt: 'a', n: 1, best_of: 3 }, 'best_of', /not supported/],
  ['logit_bias', { prompt: 'a', logit_bias: { 5: 1 } }, 'logit_bias', /not supported/],
  ['a presence penalty', { prompt: 'a', presence_penalty: 1 }, 'presence_penalty', /not supported/],
  ['stream_options without stream', { prompt: 'a', stream_options: {} }, 'stream_options', /stream: true/],
  ['span_max for a model without spans', { prompt: 'a', span_max: 5 }, 'span_max', /attention spans/],
  ['a misspelt budget', { prompt: 'a', max_step: 3 }, 'max_step', /unknown field 'max_step': did you mean max_steps\?/],
  ['a budget in camel case', { prompt: 'a', minSteps: 3 }, 'minSteps', /did you mean min_steps\?/],
  ['a misspelt deadline', { prompt: 'a', deadline: 3, dead_line_ms: 5 }, 'dead_line_ms', /did you mean deadline_ms\?/],
  ['a quality that there is none of', { prompt: 'a', quality: 'low' }, 'quality', /full or adaptive, not 'low'/],
  [
    'the limit of chat',
    { prompt: 'a', max_completion_tokens: 5 },
    'max_completion_tokens',
    /did you mean max_tokens\?/,
  ],
  ['a field of scoring', { prompt: 'a', session: 'draft' }, 'session', /POST \/v1\/score/],
  [
    'steps of a model with spans',
    { model: 'span-lm-bytes', prompt: 'a', max_steps: 1 },
    'max_steps',
    /for models with adaptive depth/,
  ],
  [
    'quality of a model with spans',
    { model: 'span-lm-bytes', prompt: 'a', quality: 'full' },
    'quality',
    /for models with adaptive depth/,
  ],
  [
    'a span beyond all',
    { model: 'span-lm-bytes', prompt: 'a', span_max: 1000000000 },
    'span_max',
    /from 0 to 64 .*, not 1000000000/,
  ],
  ['max_steps 9', { prompt: 'a', max_steps: 9 }, 'max_steps', /from 1 to 8/],
  ['a translator', { prompt: 'a', model: 'fake-mt' }, 'model', /to continue text, use one of fake/],
  ['an unknown model', { prompt: 'a', model: 'none' }, 'model', /use one of fake, span-lm-bytes$/, 'UNKNOWN_MODEL'],
  ['no JSON', '{', null, /not valid JSON/, 'MALFORMED_JSON'],
  ['a list', [], null, /the body must be a JSON object with the field prompt/],
];

for (const [name, body, param, says, code = 'INVALID_REQUEST'] of BAD) {
  test(`bad input: ${name}`, async () => {
    const reply = await post(body);
    const { error } = reply.json();
    assert.equal(reply.statusCode, code === 'INVALID_REQUEST' ? 400 : ERRORS[code].status, reply.body);
    assert.deepEqual([error.code, error.param, error.type], [code, param, ERRORS[code].type]);
    assert.match(error.message, says);
  });
}

test('neutral values of what is not supported are fine, and unknown fields are ignored', async () => {
  await complete({
    prompt: 'a',
    suffix: null,
    best_of: 1,
    logit_bias: {},
    presence_penalty: 0,
    top_k: -1,
    whatever: 1,
  });
});

test('every other field of OpenAI and vLLM is ignored', async () => {
  const theirs =
    'user store metadata service_tier prompt_cache_key safety_identifier response_format tools tool_choice functions ' +
    'modalities prediction reasoning_effort verbosity parallel_tool_calls top_logprobs allowed_token_ids stop_token_ids ' +
    'include_stop_str_in_output skip_special_tokens spaces_between_special_tokens truncate_prompt_tokens prompt_logprobs ' +
    'add_special_tokens guided_json guided_regex guided_choice guided_grammar priority request_id return_token_ids ' +
    'length_penalty logits_processors vllm_xargs kv_transfer_params cache_salt return_tokens_as_token_ids structured_outputs';
  const fields = theirs.split(' ').map((field) => [field, 1]);
  await complete({ prompt: 'a', ...Object.fromEntries(fields) });
});

test('quality adaptive: fewer steps under pressure, told in the reply, the last event and the metrics', async (t) => {
  const own = await fakeServer(['--latency-target-ms', '500']);
  t.after(() => own.app.close());
  own.engine.stepsGranted = 3;
  const body = { prompt: ['ab', 'c'], n: 2, max_tokens: 5, quality: 'adaptive' };
  const lowered = await complete(body, own);
  assert.deepEqual(lowered.quality, { max_steps: 3, lowered: true });
  assert.equal(own.engine.generations[0]?.budget.maxSteps, 3);
  const stream = { ...body, stream: true, stream_options: { include_usage: true } };
  assert.match((await post(stream, '/v1/completions', own)).body, /"quality":\{"max_steps":3,"lowered":true\}/);
  assert.equal((await complete({ prompt: 'a' }, own)).quality, undefined);
  assert.match((await own.app.inject('/metrics')).body, /quality_requests_total\{model="fake",quality="lowered"\} 2/);
});

test('a model with attention spans: its own budget, and no depths that it has not', async (t) => {
  const own = await fakeServer();
  t.after(() => own.app.close());
  const body = { model: 'span-lm-bytes', prompt: 'ab', max_tokens: 2, temperature: 0, logprobs: 1, span_max: 0 };
  const reply = await complete(body, own);
  assert.equal(own.engine.generations[0]?.spanCap, 0);
  assert.equal(reply.choices[0].text, 'AB');
  assert.ok(!('ponder' in reply));
  assert.ok(!('depths' in reply.choices[0].logprobs));
  const stream = { ...body, stream: true, stream_options: { include_usage: true } };
  const { body: streamed } = await post(stream, '/v1/completions', own);
  assert.match(streamed, /"usage":\{/);
  assert.doesNotMatch(streamed, /ponder|depths/);
  assert.doesNotMatch((await own.app.inject('/metrics')).body, /ponder_steps_per_token\w*\{model="span/);
});

test('limits on tokens that wait, and on log-probabilities in one reply', async (t) => {
  const small = await fakeServer(['--queue-tokens-max', '20']);
  t.after(() => small.app.close());
  const reply = await post({ prompt: ['abcd', 'abcd'], max_tokens: 8 }, '/v1/completions', small);
  assert.equal(reply.statusCode, 413);
  assert.match(reply.json().error.message, /24 tokens.*--queue-tokens-max/);
  const many = await post({ prompt: new Array(1000).fill('abcdefgh'), max_tokens: 9, logprobs: 20 });
  assert.equal(many.statusCode, 413);
  assert.match(many.json().error.message, /262144.*POST \/v1\/score/);
});

test('a large reply is written in pieces, the same JSON', async () => {
  const prompt = new Array(300).fill('abcdefgh');
  const { choices } = await complete({ prompt, max_tokens: 4, logprobs: 2, echo: true, temperature: 0 });
  assert.equal(choices.length, 300);
  assert.equal(choices[299]?.text, 'abcdefghABCD');
  assert.equal(choices[299]?.logprobs.top_logprobs.length, 12);
});

test('metrics: prompt tokens, new tokens, choices by reason', async (t) => {
  const own = await fakeServer();
  t.after(() => own.app.close());
  await complete({ prompt: 'ab', temperature: 0, n: 2 }, own);
  await complete({ prompt: 'ab', temperature: 0, max_tokens: 1 }, own);
  const { body } = await own.app.inject('/metrics');
  assert.match(body, /ponder_prompt_tokens_total\{model="fake"\} 4/);
  assert.match(body, /ponder_generation_tokens_total\{model="fake"\} 7/);
  assert.match(body, /ponder_completion_choices_total\{model="fake",finished_reason="stop"\} 2/);
  assert.match(body, /ponder_completion_choices_total\{model="fake",finished_reason="length"\} 1/);
  assert.match(body, /ponder_time_to_first_token_seconds_count\{model="fake"\} 2/);
});

test('tokenize and detokenize: the names of special tokens are single ids, and all comes back', async () => {
  // In the fake, byte 0 starts a text and byte 2 ends one.
  const prompt = 'a\x02é\x00';
  const { tokens, count, max_model_len } = (await post({ prompt, add_special_tokens: false }, '/tokenize')).json();
  assert.deepEqual(tokens, [97, 2, 0xc3, 0xa9, 0]);
  assert.deepEqual([count, max_model_len], [5, 17]);
  assert.equal((await post({ tokens }, '/detokenize')).json().prompt, prompt);
  assert.deepEqual((await post({ prompt: 'a' }, '/tokenize')).json().tokens, [0, 97]);
  assert.deepEqual((await post({ prompt: '', add_special_tokens: false }, '/tokenize')).json().tokens, []);
  assert.equal((await post({ tokens: [] }, '/detokenize')).json().prompt, '');
  const info = (await server.app.inject('/tokenizer_info')).json();
  assert.deepEqual([info.bos_token, info.eos_token], ['\0', '\x02']);
  const bad = await post({ tokens: [999] }, '/detokenize');
  assert.equal(bad.statusCode, 400);
  assert.match(bad.json().error.message, /tokens holds the token id 999/);
  const translator = await post({ prompt: 'a', model: 'fake-mt' }, '/tokenize');
  assert.match(translator.json().error.message, /to tokenize, use one of fake, span-lm-bytes/);
  assert.match((await post({}, '/tokenize')).json().error.message, /prompt is required: a text/);
});

test('a model that reads any length has no limit to tell, and begins with no token of its own', async () => {
  const model = 'span-lm-bytes';
  const { tokens, max_model_len } = (await post({ prompt: 'a', model }, '/tokenize')).json();
  assert.deepEqual([tokens, max_model_len], [[97], null]);
  const info = (await server.app.inject(`/tokenizer_info?model=${model}`)).json();
  assert.deepEqual([info.bos_token, info.add_bos_token, info.model_max_length], [null, false, null]);
  assert.equal((await server.app.inject('/tokenizer_info')).json().add_bos_token, true);
});

test('with several models that score, the tokenizer paths want to know which', async (t) => {
  const engine = new FakeEngine([describeModel(), describeModel({ id: 'other' }), describeTranslator()]);
  const own = await fakeServer([], { engine });
  t.after(() => own.app.close());
  const reply = await own.app.inject('/tokenizer_info');
  assert.equal(reply.statusCode, 400);
  assert.match(reply.json().error.message, /one of fake, other/);
  assert.equal((await own.app.inject('/tokenizer_info?model=other')).statusCode, 200);
});
