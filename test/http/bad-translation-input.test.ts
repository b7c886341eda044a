import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { ERRORS, type ErrorCode } from '../../src/errors.js';
import { type FakeServer, fakeServer } from '../fakes.js';

type Case = readonly [name: string, body: unknown, param: string | null, says: RegExp, code?: ErrorCode];

const CASES: readonly Case[] = [
  ['no input', {}, 'input', /^input is required: a text or a list of texts$/],
  ['no texts', { input: [] }, 'input', /empty list; it must be a text or a list of texts/],
  ['token ids', { input: [1, 2] }, 'input', /must be a text or a list of texts; input\[0\] is an integer/],
  ['a bad member', { input: ['a', null, 'b'] }, 'input', /input\[0\] is a text but input\[1\] is null/],
  ['null', { input: null }, 'input', /not null/],
  ['too many texts', { input: new Array(1025).fill('a') }, 'input', /1025 texts, at most 1024.*--inputs-max/],
  ['lone surrogate', '{"input":["a","b\\ud83d"]}', 'input[1]', /lone surrogate \(U\+D83D\) at offset 1/],
  ['beam 0', { input: 'a', beam: 0 }, 'beam', /an integer from 1 to 8/],
  ['beam 9', { input: 'a', beam: 9 }, 'beam', /an integer from 1 to 8/],
  ['beam 1.5', { input: 'a', beam: 1.5 }, 'beam', /an integer from 1 to 8/],
  ['alternatives 8', { input: 'a', alternatives: 8 }, 'alternatives', /an integer from 0 to 7/],
  [
    'a beam too small',
    { input: 'a', alternatives: 3, beam: 3 },
    'alternatives',
    /alternatives \(3\) must be below beam \(3\): raise beam or leave it out/,
  ],
  ['length_penalty -1', { input: 'a', length_penalty: -1 }, 'length_penalty', /a number from 0 to 5/],
  ['length_penalty 6', { input: 'a', length_penalty: 6 }, 'length_penalty', /a number from 0 to 5/],
  ['max_new_tokens 0', { input: 'a', max_new_tokens: 0 }, 'max_new_tokens', /an integer from 1 to 128, not 0/],
  [
    'max_new_tokens 129',
    { input: 'a', max_new_tokens: 129 },
    'max_new_tokens',
    /from 1 to 128 \(the model's context\)/,
  ],
  ['max_steps 7', { input: 'a', max_steps: 7 }, 'max_steps', /from 1 to 6 \(the model's maximum\), not 7/],
  [
    'encoder max_steps 7',
    { input: 'a', encoder: { max_steps: 7 } },
    'encoder.max_steps',
    /^encoder\.max_steps must be/,
  ],
  [
    'encoder min over max',
    { input: 'a', max_steps: 2, encoder: { min_steps: 3 } },
    'encoder.min_steps',
    /^encoder\.min_steps must be an integer from 1 to 2 \(max_steps\), not 3/,
  ],
  [
    'min over decoder max',
    { input: 'a', min_steps: 3, decoder: { max_steps: 2 } },
    'min_steps',
    /from 1 to 2 \(decoder\.max_steps\), not 3/,
  ],
  ['encoder threshold 0', { input: 'a', encoder: { threshold: 0 } }, 'encoder.threshold', /above 0 and at most 1/],
  ['encoder 3', { input: 'a', encoder: 3 }, 'encoder', /an object with max_steps, min_steps, threshold/],
  [
    'unknown budget',
    { input: 'a', decoder: { max_step: 3 } },
    'decoder.max_step',
    /unknown field 'decoder\.max_step': did you mean max_steps/,
  ],
  ['unknown field', { input: 'a', beams: 3 }, 'beams', /unknown field 'beams': did you mean beam\?/],
  ['format pdf', { input: 'a', format: 'pdf' }, 'format', /text or html/],
  ['stream 1', { input: 'a', stream: 1 }, 'stream', /true or false/],
  ['deadline above', { input: 'a', deadline_ms: 600_001 }, 'deadline_ms', /--deadline-ms-max/],
  [
    'unsupported target',
    { input: 'a', target: 'fr' },
    'target',
    /any language to fr is not served: the pairs are en to de/,
  ],
  [
    'unsupported source',
    { input: 'a', source: 'fr', target: 'de' },
    'source',
    /fr to de is not served: the pairs are en to de/,
  ],
  ['the other way round', { input: 'a', source: 'de', target: 'en' }, 'source', /de to en is not served/],
  ['a code with controls', { input: 'a', target: 'd\u0000' }, 'target', /to d\uFFFD is not served/],
  [
    'a model that scores',
    { input: 'a', model: 'fake' },
    'model',
    /'fake' scores text \(POST \/v1\/score\); to translate, use one of fake-mt/,
  ],
  ['unknown model', { input: 'a', model: 'gpt' }, 'model', /use one of fake-mt$/, 'UNKNOWN_MODEL'],
  ['a text too long', { input: ['a', 'é'.repeat(6e5)] }, 'input[1]', /--text-bytes-max/, 'PAYLOAD_TOO_LARGE'],
  ['null body', 'null', null, /the body must be a JSON object with the field input: a text or a list of texts/],
  ['half a body', '{"input":', null, /ends too early/, 'MALFORMED_JSON'],
];

let server: FakeServer;
before(async () => {
  server = await fakeServer();
});
after(() => server.app.close());

for (const [name, body, param, says, code = 'INVALID_REQUEST'] of CASES) {
  test(`${name}: ${code}`, async () => {
    const payload = typeof body === 'string' ? body : JSON.stringify(body);
    const headers = { 'content-type': 'application/json' };
    const reply = await server.app.inject({ method: 'POST', url: '/v1/translate', headers, payload });
    assert.equal(reply.statusCode, ERRORS[code].status, reply.body.slice(0, 500));
    const { error } = reply.json();
    assert.equal(error.code, code);
    assert.equal(error.param, param);
    assert.match(error.message, says);
    assert.ok(error.message.length < 400 && !error.message.includes('\n'));
  });
}

test('a translation model does not score, and says what it can', async () => {
  const payload = { input: 'a', model: 'fake-mt' };
  const reply = await server.app.inject({ method: 'POST', url: '/v1/score', payload });
  assert.equal(reply.statusCode, 422);
  const message = "model 'fake-mt' translates (POST /v1/translate); to score, use one of fake, span-lm-bytes";
  assert.deepEqual(reply.json().error, {
    code: 'INVALID_REQUEST',
    message,
    type: 'invalid_request_error',
    param: 'model',
  });
});

test('nothing of that reached the engine, and nothing is held', () => {
  assert.equal(server.engine.translations.length, 0);
  assert.equal(server.admission.requestsInWork, 0);
});
