/** The Open Inference Protocol over JSON and bytes; test/clients runs its real client. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { deflateSync, gunzipSync, gzipSync, inflateSync } from 'node:zlib';
import { ERRORS, type ErrorCode, ServerError } from '../../src/errors.js';
import { type FakeServer, fakeServer } from '../fakes.js';

let server: FakeServer;
before(async () => {
  server = await fakeServer(['--body-bytes-max', '65536', '--text-bytes-max', '65536']);
});
after(() => server.app.close());

const INFER = '/v2/models/fake/infer';
const post = (payload: object | string | Buffer, headers: Record<string, string> = {}, url = INFER) =>
  server.app.inject({
    method: 'POST',
    url,
    headers,
    payload: Buffer.isBuffer(payload) || typeof payload === 'string' ? payload : JSON.stringify(payload),
  });

const text = (...data: string[]) => ({ name: 'text', datatype: 'BYTES', shape: [data.length], data });
const bytesElement = (value: string): Buffer => {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
};
const withBinary = (json: object, ...tensors: Buffer[]) => {
  const head = Buffer.from(JSON.stringify(json));
  const headers = { 'inference-header-content-length': String(head.length) };
  return [Buffer.concat([head, ...tensors]), headers] as const;
};

interface Output {
  readonly name: string;
  readonly datatype: string;
  readonly shape: number[];
  readonly data?: (string | number)[];
  readonly parameters?: { readonly binary_data_size: number };
}
const outputOf = (body: { outputs: Output[] }, name: string): Output => {
  const output = body.outputs.find((candidate) => candidate.name === name);
  assert.ok(output, `no output ${name}`);
  return output;
};

test('server, health, metadata, configuration', async () => {
  const { app, engine } = server;
  const about = (await app.inject('/v2')).json();
  assert.equal(about.name, 'ponder-serve');
  assert.ok(about.extensions.includes('binary_tensor_data'));
  assert.equal((await app.inject('/v2/health/live')).statusCode, 200);
  assert.equal((await app.inject('/v2/health/ready')).statusCode, 200);
  assert.equal((await app.inject('/v2/models/fake/versions/1/ready')).statusCode, 200);
  const metadata = (await app.inject('/v2/models/fake')).json();
  assert.deepEqual([metadata.name, metadata.versions], ['fake', ['1']]);
  assert.deepEqual(
    metadata.inputs.find(({ name }: Output) => name === 'input_ids'),
    { name: 'input_ids', datatype: 'INT64', shape: [-1, -1] },
  );
  assert.ok(metadata.outputs.some(({ name }: Output) => name === 'remainders'));
  const config = (await app.inject('/v2/models/fake-mt/versions/1/config')).json();
  assert.equal(config.max_batch_size, 0);
  assert.equal(config.parameters.max_steps.string_value, '6');
  assert.ok(config.output.some(({ name }: Output) => name === 'source_depths'));

  engine.state = 'restarting';
  for (const path of ['/v2/health/ready', '/v2/models/fake/ready']) {
    const reply = await app.inject(path);
    assert.equal(reply.statusCode, 503);
    assert.match(reply.json().error, /retry shortly/);
  }
  assert.equal((await app.inject('/v2/health/live')).statusCode, 200);
  engine.state = 'ready';
});

test('scores texts: per-token outputs, all texts one after the other', async () => {
  const reply = await post({ id: 'x1', inputs: [text('ab', 'c')] });
  assert.equal(reply.statusCode, 200, reply.body);
  const body = reply.json();
  assert.deepEqual([body.id, body.model_name, body.model_version], ['x1', 'fake', '1']);
  assert.deepEqual(outputOf(body, 'token_ids').data, [97, 98, 99]);
  assert.deepEqual(outputOf(body, 'lengths').data, [2, 1]);
  assert.deepEqual(outputOf(body, 'offsets').data, [0, 1, 0]);
  assert.deepEqual(outputOf(body, 'depths').data, [3, 4, 5]);
  const expected = [97, 98, 99].map((id) => Math.fround(-(1 + (id % 7)) / 3));
  assert.deepEqual(outputOf(body, 'logprobs').data, expected);
  assert.equal(outputOf(body, 'logprobs').datatype, 'FP32');
  assert.equal(body.parameters.tokens, 3);
  assert.ok(reply.headers['server-timing']);
});

test('token ids: a row, rows, and rows of other lengths', async () => {
  const ids = (shape: number[], data: unknown[], datatype = 'INT64') => ({ name: 'input_ids', datatype, shape, data });
  const lengths = { name: 'input_lengths', datatype: 'INT32', shape: [2], data: [1, 3] };
  for (const [inputs, wanted] of [
    [[ids([4], [5, 6, 7, 8])], [4]],
    [
      [
        ids(
          [2, 2],
          [
            [5, 6],
            [7, 8],
          ],
          'INT32',
        ),
      ],
      [2, 2],
    ],
    [
      [ids([4], [5, 6, 7, 8]), lengths],
      [1, 3],
    ],
  ] as const) {
    const reply = await post({ inputs });
    assert.equal(reply.statusCode, 200, reply.body);
    assert.deepEqual(outputOf(reply.json(), 'lengths').data, wanted);
    assert.deepEqual(outputOf(reply.json(), 'token_ids').data, [5, 6, 7, 8]);
  }
});

test('budgets arrive as tensors and as parameters', async () => {
  const { requests } = server.engine;
  await post({
    parameters: { min_steps: 2, timeout: 5_000_000 },
    inputs: [
      text('abc'),
      { name: 'max_steps', datatype: 'INT32', shape: [1], data: [3] },
      { name: 'threshold', datatype: 'FP32', shape: [1], data: [0.5] },
    ],
  });
  const request = requests.at(-1);
  assert.deepEqual(request?.budget, { maxSteps: 3, minSteps: 2, threshold: 0.5 });
  assert.ok(request?.deadlineAtMs);
});

test('top candidates: only when they are asked for', async () => {
  const reply = await post({ parameters: { top_logprobs: 2 }, inputs: [text('ab')] });
  assert.deepEqual(outputOf(reply.json(), 'top_ids').shape, [2, 2]);
  assert.deepEqual(outputOf(reply.json(), 'top_ids').data, [97, 98, 98, 99]);
  const without = await post({ inputs: [text('ab')], outputs: [{ name: 'top_ids' }] });
  assert.equal(without.statusCode, 400);
  assert.match(without.json().error, /top_ids.*top_logprobs/);
});

test('a model with attention spans: spans in the place of depths, and a cap in that of a budget', async () => {
  const url = '/v2/models/span-lm-bytes/infer';
  const whole = (await post({ inputs: [text('ab', 'cde')] }, {}, url)).json();
  assert.deepEqual(outputOf(whole, 'lengths').data, [2, 3]);
  assert.deepEqual(outputOf(whole, 'head_spans').data, [5, 16, 10, 61]);
  assert.deepEqual(outputOf(whole, 'head_spans').shape, [2, 2]);
  const scored = await server.app.inject({
    method: 'POST',
    url: '/v1/score',
    payload: { model: 'span-lm-bytes', input: ['ab', 'cde'], span_max: 8 },
  });
  const capped = (await post({ inputs: [text('ab', 'cde')], parameters: { span_max: 8 } }, {}, url)).json();
  assert.deepEqual(
    outputOf(capped, 'logprobs').data,
    scored
      .json()
      .results.flatMap(({ tokens }: { tokens: { logprob: number }[] }) => tokens.map(({ logprob }) => logprob)),
  );
  assert.equal(capped.parameters.tokens, 5);
  const odd = await post({ inputs: [text('a')], parameters: { max_steps: 2 } }, {}, url);
  assert.equal(odd.statusCode, 400);
  const metadata = (await server.app.inject('/v2/models/span-lm-bytes')).json();
  assert.ok(!metadata.outputs.some(({ name }: Output) => name === 'depths'));
});

test('translates: texts and the tokens of both sides', async () => {
  const reply = await post({ inputs: [text('Abc.', '')] }, {}, '/v2/models/fake-mt/infer');
  const body = reply.json();
  assert.deepEqual(outputOf(body, 'text').data, ['aBC.', '']);
  assert.deepEqual(outputOf(body, 'lengths').data, [4, 0]);
  assert.deepEqual(outputOf(body, 'source_lengths').data, [4, 0]);
  assert.equal(outputOf(body, 'logprobs').data?.length, 4);
});

test('binary tensors in and out, in order, with their sizes', async () => {
  const ids = Buffer.alloc(16);
  ids.writeBigInt64LE(5n, 0);
  ids.writeBigInt64LE(6n, 8);
  const threshold = Buffer.alloc(4);
  threshold.writeFloatLE(0.25);
  const size = (bytes: Buffer) => ({ parameters: { binary_data_size: bytes.length } });
  const [payload, headers] = withBinary(
    {
      parameters: { binary_data_output: true },
      inputs: [
        { name: 'input_ids', datatype: 'INT64', shape: [1, 2], ...size(ids) },
        { name: 'max_steps', datatype: 'INT32', shape: [1], data: [4] },
        { name: 'threshold', datatype: 'FP32', shape: [1], ...size(threshold) },
      ],
      outputs: [{ name: 'depths' }, { name: 'lengths', parameters: { binary_data: false } }, { name: 'logprobs' }],
    },
    ids,
    threshold,
  );
  const reply = await post(payload, { ...headers, 'content-type': 'application/octet-stream' });
  assert.equal(reply.statusCode, 200, reply.body);
  assert.equal(server.engine.requests.at(-1)?.budget.threshold, 0.25);
  const jsonLength = Number(reply.headers['inference-header-content-length']);
  const body = JSON.parse(reply.rawPayload.subarray(0, jsonLength).toString());
  assert.deepEqual(
    body.outputs.map(({ name, parameters, data }: Output) => [name, parameters?.binary_data_size, data]),
    [
      ['depths', 8, undefined],
      ['lengths', undefined, [2]],
      ['logprobs', 8, undefined],
    ],
  );
  const bytes = reply.rawPayload.subarray(jsonLength);
  assert.deepEqual([bytes.readInt32LE(0), bytes.readInt32LE(4)], [1, 2]);
  assert.equal(bytes.readFloatLE(8), Math.fround(-(1 + 5) / 3));
  assert.equal(bytes.length, 16);
});

test('BYTES as bytes: texts with a NUL and beyond ASCII; a raw body is one text', async () => {
  const texts = Buffer.concat([bytesElement('é\0'), bytesElement('b')]);
  const [payload, headers] = withBinary(
    { inputs: [{ name: 'text', datatype: 'BYTES', shape: [2], parameters: { binary_data_size: texts.length } }] },
    texts,
  );
  const reply = await post(payload, headers);
  assert.deepEqual(outputOf(reply.json(), 'token_ids').data, [0xc3, 0xa9, 0, 98]);

  const raw = await post('hello', { 'inference-header-content-length': '0' }, '/v2/models/fake-mt/infer');
  const jsonLength = Number(raw.headers['inference-header-content-length']);
  const { outputs } = JSON.parse(raw.rawPayload.subarray(0, jsonLength).toString());
  assert.equal(outputs[0].name, 'text');
  const said = raw.rawPayload.subarray(jsonLength, jsonLength + outputs[0].parameters.binary_data_size);
  assert.deepEqual(said, bytesElement('HELLO'));
});

test('gzip and deflate, both ways', async () => {
  const json = JSON.stringify({ inputs: [text('a'.repeat(500))] });
  for (const [encoding, pack, unpack] of [
    ['gzip', gzipSync, gunzipSync],
    ['deflate', deflateSync, inflateSync],
  ] as const) {
    const reply = await post(pack(json), { 'content-encoding': encoding, 'accept-encoding': `br, ${encoding}` });
    assert.equal(reply.statusCode, 200, reply.body);
    assert.equal(reply.headers['content-encoding'], encoding);
    assert.equal(outputOf(JSON.parse(unpack(reply.rawPayload).toString()), 'token_ids').data?.length, 500);
  }
  const plain = await post(json, { 'accept-encoding': 'gzip;q=0, identity' });
  assert.equal(plain.headers['content-encoding'], undefined);
});

test('a large reply is written in pieces, the same JSON', async () => {
  const reply = await post({ inputs: [text(...new Array(40).fill('a'.repeat(300)))] });
  assert.equal(outputOf(reply.json(), 'logprobs').data?.length, 12_000);
  assert.deepEqual(outputOf(reply.json(), 'offsets').shape, [12_000]);
});

const bomb = gzipSync(Buffer.alloc(1 << 20, ' '));
const given = (input: object) => ({ inputs: [{ name: 'text', datatype: 'BYTES', shape: [1], data: ['a'], ...input }] });
const binary = (size: unknown, bytes: Buffer, more: object = {}) =>
  withBinary(given({ data: undefined, parameters: { binary_data_size: size }, ...more }), bytes);

const BAD: readonly (readonly [string, () => ReturnType<typeof post>, ErrorCode, RegExp])[] = [
  ['an empty body', () => post(''), 'MALFORMED_JSON', /correct it/],
  ['no JSON', () => post('{"inputs":'), 'MALFORMED_JSON', /ends too early/],
  ['no inputs', () => post({}), 'INVALID_REQUEST', /inputs/],
  [
    'a list',
    () => post([]),
    'INVALID_REQUEST',
    /the body must be a JSON object with inputs: a list of tensors, each like \{/,
  ],
  [
    'a shape that is none',
    () => post(given({ shape: [-1] })),
    'INVALID_REQUEST',
    /inputs\.0\.shape\.0 must be an integer from 0 to 2147483648/,
  ],
  ['no inputs', () => post({}), 'INVALID_REQUEST', /inputs is required: a list of 1 to 32 tensors, each like \{"name"/],
  [
    'an empty list of inputs',
    () => post({ inputs: [] }),
    'INVALID_REQUEST',
    /inputs must be a list of 1 to 32 tensors/,
  ],
  [
    'inputs that are no list',
    () => post({ inputs: 'a' }),
    'INVALID_REQUEST',
    /inputs must be a list of 1 to 32 tensors/,
  ],
  [
    'a tensor without a shape',
    () => post(given({ shape: undefined })),
    'INVALID_REQUEST',
    /inputs\.0\.shape is required: a list/,
  ],
  [
    'a parameter that is a list',
    () => post({ ...given({}), parameters: { max_steps: [1] } }),
    'INVALID_REQUEST',
    /parameters\.max_steps must be a text, a number/,
  ],
  ['a shape that does not fit', () => post(given({ shape: [2] })), 'INVALID_REQUEST', /2 elements, but there are 1/],
  ['an unknown input', () => post(given({ name: 'texts' })), 'INVALID_REQUEST', /input 'texts': did you mean text\?/],
  [
    'an unknown datatype',
    () => post(given({ name: 'input_ids', datatype: 'FP8', data: [1] })),
    'INVALID_REQUEST',
    /'FP8'.*INT64/,
  ],
  ['a number as text', () => post(given({ data: [1] })), 'INVALID_REQUEST', /list of texts.*element 0/],
  [
    'a text as number',
    () => post(given({ name: 'input_ids', datatype: 'INT64' })),
    'INVALID_REQUEST',
    /list of numbers/,
  ],
  ['an input without data', () => post(given({ data: undefined })), 'INVALID_REQUEST', /has no data/],
  ['the same input twice', () => post({ inputs: [text('a'), text('b')] }), 'INVALID_REQUEST', /given twice/],
  [
    'text and ids',
    () => post({ inputs: [text('a'), { name: 'input_ids', datatype: 'INT32', shape: [1], data: [1] }] }),
    'INVALID_REQUEST',
    /send one of the inputs/,
  ],
  [
    'a fraction as id',
    () => post(given({ name: 'input_ids', datatype: 'FP32', data: [1.5] })),
    'INVALID_REQUEST',
    /fractions/,
  ],
  [
    'an id out of range',
    () => post(given({ name: 'input_ids', datatype: 'INT64', data: [999] })),
    'INVALID_REQUEST',
    /token id 999/,
  ],
  [
    'three dimensions',
    () => post(given({ name: 'input_ids', datatype: 'INT64', data: [9], shape: [1, 1, 1] })),
    'INVALID_REQUEST',
    /\[texts, tokens\]/,
  ],
  [
    'many empty rows',
    () => post(given({ name: 'input_ids', datatype: 'INT64', data: [], shape: [2 ** 31, 0] })),
    'INVALID_REQUEST',
    /\[texts, tokens\]/,
  ],
  ['an empty text', () => post({ inputs: [text('')] }), 'INVALID_REQUEST', /text\[0\] is empty/],
  ['no texts', () => post({ inputs: [text()] }), 'INVALID_REQUEST', /text is an empty list/],
  [
    'an unknown parameter',
    () => post({ ...given({}), parameters: { max_step: 1 } }),
    'INVALID_REQUEST',
    /did you mean max_steps/,
  ],
  [
    'a parameter out of range',
    () => post({ ...given({}), parameters: { max_steps: 9 } }),
    'INVALID_REQUEST',
    /from 1 to 8/,
  ],
  [
    'a parameter of another type',
    () => post({ ...given({}), parameters: { max_steps: '3' } }),
    'INVALID_REQUEST',
    /max_steps must be an integer/,
  ],
  ['a negative timeout', () => post({ ...given({}), parameters: { timeout: -1 } }), 'INVALID_REQUEST', /microseconds/],
  [
    'an unknown output',
    () => post({ ...given({}), outputs: [{ name: 'logits' }] }),
    'INVALID_REQUEST',
    /unknown output 'logits'/,
  ],
  [
    'classification',
    () => post({ ...given({}), outputs: [{ name: 'depths', parameters: { classification: 2 } }] }),
    'INVALID_REQUEST',
    /'classification' is not supported/,
  ],
  ['a size beyond the body', () => post(...binary(99, bytesElement('a'))), 'INVALID_REQUEST', /5 bytes are left/],
  ['a size that is none', () => post(...binary('5', bytesElement('a'))), 'INVALID_REQUEST', /binary_data_size 5/],
  [
    'bytes left over',
    () => post(...binary(5, Buffer.concat([bytesElement('a'), Buffer.alloc(4)]))),
    'MALFORMED_REQUEST',
    /4 bytes follow/,
  ],
  [
    'an element cut short',
    () => post(...binary(5, Buffer.from([9, 0, 0, 0, 97]))),
    'INVALID_REQUEST',
    /end within an element/,
  ],
  [
    'bytes that are not UTF-8',
    () => post(...binary(5, Buffer.from([1, 0, 0, 0, 0xff]))),
    'INVALID_REQUEST',
    /text\[0\].*UTF-8/,
  ],
  [
    'half a number',
    () => post(...binary(5, Buffer.alloc(5), { name: 'input_ids', datatype: 'INT32' })),
    'INVALID_REQUEST',
    /no multiple of 4/,
  ],
  [
    'a header length beyond the body',
    () => post(given({}), { 'inference-header-content-length': '9999' }),
    'MALFORMED_REQUEST',
    /length of the JSON part/,
  ],
  [
    'a header length that is none',
    () => post(given({}), { 'inference-header-content-length': 'x' }),
    'MALFORMED_REQUEST',
    /length of the JSON part/,
  ],
  [
    'an unknown encoding',
    () => post(given({}), { 'content-encoding': 'br' }),
    'UNSUPPORTED_MEDIA_TYPE',
    /gzip, deflate/,
  ],
  ['no gzip', () => post(given({}), { 'content-encoding': 'gzip' }), 'MALFORMED_REQUEST', /not valid gzip/],
  ['a gzip bomb', () => post(bomb, { 'content-encoding': 'gzip' }), 'PAYLOAD_TOO_LARGE', /65536 bytes/],
  ['a body that is too large', () => post(Buffer.alloc(65_537)), 'PAYLOAD_TOO_LARGE', /65536 bytes/],
  ['an unknown model', () => post(given({}), {}, '/v2/models/none/infer'), 'UNKNOWN_MODEL', /use one of fake/],
  [
    'an unknown version',
    () => post(given({}), {}, '/v2/models/fake/versions/2/infer'),
    'UNKNOWN_MODEL',
    /version 1 alone/,
  ],
  ['an unknown path', () => post(given({}), {}, '/v2/models/fake/nothing'), 'NOT_FOUND', /no such path/],
];

for (const [name, send, code, says] of BAD) {
  test(`bad input: ${name}`, async () => {
    const reply = await send();
    assert.equal(reply.statusCode, code === 'INVALID_REQUEST' ? 400 : ERRORS[code].status, reply.body);
    assert.deepEqual(Object.keys(reply.json()), ['error']);
    assert.match(reply.json().error, says);
  });
}

test('a request that is late is told of the field that this protocol has', async (t) => {
  const own = await fakeServer();
  t.after(() => own.app.close());
  own.engine.failWith(
    new ServerError('DEADLINE_EXCEEDED', 'the deadline passed: ask for less text or raise deadline_ms'),
  );
  const reply = await own.app.inject({ method: 'POST', url: '/v2/models/fake/infer', payload: given({}) });
  assert.equal(reply.json().error, 'the deadline passed: ask for less text or raise timeout');
});

test('what failed holds nothing afterwards', async () => {
  assert.equal(server.admission.requestsInWork, 0);
  // All bytes of bodies can still be had.
  server.admission.takeBody(65_536)();
});

test('statistics count successes and failures of each model', async () => {
  const { model_stats: before } = (await server.app.inject('/v2/models/fake/stats')).json();
  await post({ inputs: [text('ab', 'c')] });
  await post({ inputs: [text('')] });
  const { model_stats: after } = (await server.app.inject('/v2/models/fake/versions/1/stats')).json();
  const [was, is] = [before[0], after[0]];
  assert.equal(is.inference_count - was.inference_count, 2);
  assert.equal(is.inference_stats.success.count - was.inference_stats.success.count, 1);
  assert.equal(is.inference_stats.fail.count - was.inference_stats.fail.count, 1);
  assert.equal(is.inference_stats.compute_infer.ns - was.inference_stats.compute_infer.ns, 1_500_000);
  assert.ok(is.last_inference > 1.7e12);
  const all = (await server.app.inject('/v2/models/stats')).json().model_stats;
  assert.deepEqual(
    all.map(({ name }: Output) => name),
    ['fake', 'fake-mt', 'span-lm-bytes'],
  );
});
