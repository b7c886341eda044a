/** Requests that nobody should send, as bytes. Each names its kind, and whether the server is to be kept waiting for the rest. */
import { gzipSync } from 'node:zlib';
import type { Random } from '../../test/seed.js';

export interface Hostile {
  readonly kind: string;
  readonly bytes: Buffer;
  /** Sent a byte at a time, and never to the end. */
  readonly slow?: boolean;
}

const GZIP_BOMB = gzipSync(Buffer.alloc(8 << 20));
const PATHS = [
  '/v1/score',
  '/v1/translate',
  '/translate',
  '/detect',
  '/v1/completions',
  '/v2/models/ut-lm-en/infer',
  '/nowhere',
];

function post(path: string, body: Buffer | string, headers = 'content-type: application/json\r\n'): Buffer {
  const bytes = Buffer.from(body);
  return Buffer.concat([
    Buffer.from(
      `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${headers}content-length: ${bytes.length}\r\n\r\n`,
    ),
    bytes,
  ]);
}

type Maker = (random: Random) => Omit<Hostile, 'kind'>;

const MAKERS: Readonly<Record<string, Maker>> = {
  'random JSON': (random) => ({ bytes: post(random.pick(PATHS), JSON.stringify(randomValue(random, 4))) }),
  'fields of wrong types': (random) => {
    const fields = [
      'input',
      'model',
      'max_steps',
      'threshold',
      'deadline_ms',
      'stream',
      'beam',
      'quality',
      'prompt',
      'q',
      'target',
    ];
    const body = Object.fromEntries(Array.from({ length: 4 }, () => [random.pick(fields), randomValue(random, 2)]));
    return { bytes: post(random.pick(PATHS), JSON.stringify({ input: 'a', ...body })) };
  },
  'random bytes': (random) => ({ bytes: post(random.pick(PATHS), noise(random, random.int(0, 400))) }),
  'not HTTP': (random) => ({ bytes: noise(random, random.int(1, 200)) }),
  truncated: (random) => {
    const whole = post(random.pick(PATHS), '{"input":"The house is small."}');
    return { bytes: whole.subarray(0, random.int(1, whole.length - 1)) };
  },
  'huge headers': (random) => ({
    bytes: Buffer.from(
      `GET /health/live HTTP/1.1\r\nhost: x\r\nx-filler: ${'a'.repeat(random.int(1000, 60_000))}\r\n\r\n`,
    ),
  }),
  'many headers': () => ({
    bytes: Buffer.from(
      `GET /health/live HTTP/1.1\r\nhost: x\r\n${Array.from({ length: 3000 }, (_, i) => `x-${i}: 1\r\n`).join('')}\r\n`,
    ),
  }),
  'wrong encoding': (random) => ({
    bytes: post(
      '/v1/score',
      Buffer.from([...Buffer.from('{"input":"'), 0xff, 0xc3, 0x28, random.int(0x80, 0xff), ...Buffer.from('"}')]),
    ),
  }),
  'wrong media type': (random) => ({
    bytes: post(
      random.pick(PATHS),
      '{"input":"a"}',
      `content-type: ${random.pick(['text/plain', 'application/json; charset=utf-16', 'multipart/form-data', ''])}\r\n`,
    ),
  }),
  'deep JSON': (random) => {
    const depth = random.int(500, 50_000);
    return { bytes: post('/v1/score', `{"input":${'['.repeat(depth)}${']'.repeat(depth)}}`) };
  },
  'gzip bomb': (random) => ({
    bytes: post(random.pick(PATHS), GZIP_BOMB, 'content-type: application/json\r\ncontent-encoding: gzip\r\n'),
  }),
  pipelined: (random) => ({
    bytes: Buffer.from(
      Array.from(
        { length: random.int(2, 20) },
        () => `GET ${random.pick(['/health/live', '/nowhere', '/v1/models'])} HTTP/1.1\r\nhost: x\r\n\r\n`,
      ).join(''),
    ),
  }),
  smuggled: (random) => ({
    bytes: Buffer.from(
      `POST /v1/score HTTP/1.1\r\nhost: x\r\n${random.pick([
        'content-length: 3\r\ncontent-length: 5\r\n',
        'content-length: 3\r\ntransfer-encoding: chunked\r\n',
        'transfer-encoding: chunked, chunked\r\n',
        'content-length: -1\r\n',
        'content-length: 99999999999999999999\r\n',
      ])}\r\nabc`,
    ),
  }),
  'no end': (random) => ({
    bytes: Buffer.from(`POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: ${random.int(10, 1000)}\r\n\r\n{`),
    slow: true,
  }),
  'slow headers': () => ({
    bytes: Buffer.from('POST /v1/score HTTP/1.1\r\nhost: x\r\nx-slow: 1234567890\r\n'),
    slow: true,
  }),
};

export function drawHostile(random: Random): Hostile {
  const kind = random.pick(Object.keys(MAKERS));
  return { kind, ...(MAKERS[kind] as Maker)(random) };
}

function noise(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.int(0, 255)));
}

function randomValue(random: Random, depth: number): unknown {
  switch (random.int(0, depth > 0 ? 8 : 6)) {
    case 0:
      return null;
    case 1:
      return random.chance(0.5);
    case 2:
      return random.pick([0, -1, 1e308, 3.7, 2 ** 53, -0, 1e-9, random.int(-1000, 1000)]);
    case 3:
      return '';
    case 4:
      return random.pick(['\u0000', '\ud800', '𝔘', '\u202e', '__proto__', 'a'.repeat(random.int(1, 3000))]);
    case 5:
      return String.fromCharCode(...Array.from({ length: random.int(1, 20) }, () => random.int(0, 0xffff)));
    case 6:
      return random.next();
    case 7:
      return Array.from({ length: random.int(0, 6) }, () => randomValue(random, depth - 1));
    default:
      return Object.fromEntries(
        Array.from({ length: random.int(0, 5) }, () => [
          random.pick(['input', 'model', '__proto__', 'constructor', 'toString', 'max_steps', 'x']),
          randomValue(random, depth - 1),
        ]),
      );
  }
}
