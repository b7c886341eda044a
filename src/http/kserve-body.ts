/** The body of an inference request: decompressed, its JSON part checked, and the tensors behind it cut out. */
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import { type Static, Type } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { Value } from 'typebox/value';
import { ServerError } from '../errors.js';
import { type Admission, bodyTooLarge } from './admission.js';
import { unsupportedMediaType } from './errors.js';
import { parseJson, parseUtf8 } from './json-body.js';
import { DIMENSIONS_MAX, type InputTensor, invalid, tensorFromBytes, tensorFromJson } from './kserve-tensors.js';
import { shorten } from './validation.js';

export const HEADER_LENGTH = 'inference-header-content-length';

const Parameters = Type.Record(Type.String(), Type.Union([Type.String(), Type.Number(), Type.Boolean()]), {
  description: 'Budgets, settings and how to answer, by name.',
});

export const InferBody = Type.Object(
  {
    id: Type.Optional(Type.String({ maxLength: 1024, description: 'Comes back as it is.' })),
    parameters: Type.Optional(Parameters),
    inputs: Type.Array(
      Type.Object({
        name: Type.String(),
        datatype: Type.String(),
        shape: Type.Array(Type.Integer({ minimum: 0, maximum: 2 ** 31 }), { maxItems: DIMENSIONS_MAX }),
        parameters: Type.Optional(Parameters),
        data: Type.Optional(
          Type.Array(Type.Unknown(), { description: 'Elements, row by row; none when binary_data_size is given.' }),
        ),
      }),
      { minItems: 1, maxItems: 32 },
    ),
    outputs: Type.Optional(
      Type.Array(Type.Object({ name: Type.String(), parameters: Type.Optional(Parameters) }), {
        maxItems: 32,
        description: 'Those that are wanted; without it all.',
      }),
    ),
  },
  {
    examples: [
      { inputs: [{ name: 'text', datatype: 'BYTES', shape: [2], data: ['A first text.', 'A second one.'] }] },
      {
        id: 'some-id',
        parameters: { max_steps: 3, binary_data_output: false },
        inputs: [
          {
            name: 'input_ids',
            datatype: 'INT64',
            shape: [2, 2],
            data: [
              [5, 6],
              [7, 8],
            ],
          },
          { name: 'threshold', datatype: 'FP32', shape: [1], data: [0.5] },
        ],
        outputs: [{ name: 'logprobs' }, { name: 'depths', parameters: { binary_data: false } }],
      },
    ],
  },
);
export type InferBody = Static<typeof InferBody>;

/** The whole body is one text: the header's length is 0. */
export interface RawBody {
  readonly raw: string;
}

export interface InferRequest {
  readonly body: InferBody;
  readonly tensors: readonly InputTensor[];
}

const inflaters: Readonly<Record<string, (body: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>>> = {
  gzip: promisify(gunzip),
  'x-gzip': promisify(gunzip),
  deflate: promisify(inflate),
};

/**
 * The body as it was before it was compressed. The permit for its bytes was taken by what was declared; what it swells to is charged
 * before it is made.
 * @throws ServerError UNSUPPORTED_MEDIA_TYPE, MALFORMED_REQUEST, PAYLOAD_TOO_LARGE or QUEUE_FULL
 */
export async function decompress(
  { headers, exit }: FastifyRequest,
  body: Buffer,
  admission: Admission,
  bodyBytesMax: number,
): Promise<Buffer> {
  const encoding = (headers['content-encoding'] ?? 'identity').toLowerCase();
  if (encoding === 'identity') return body;
  const decode = Object.hasOwn(inflaters, encoding) ? inflaters[encoding] : undefined;
  if (decode === undefined) throw unsupportedMediaType('this Content-Encoding', 'use gzip, deflate or none');
  const releaseMost = admission.takeBody(null);
  try {
    const whole = await decode(body, { maxOutputLength: bodyBytesMax });
    releaseMost();
    exit.hold(admission.takeBody(whole.length));
    return whole;
  } catch (error) {
    releaseMost();
    if (error instanceof ServerError) throw error;
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw bodyTooLarge(bodyBytesMax);
    throw new ServerError('MALFORMED_REQUEST', `the body is not valid ${encoding}: send it whole, or uncompressed`);
  }
}

/** @throws ServerError MALFORMED_REQUEST, MALFORMED_JSON or INVALID_REQUEST */
export function readInferRequest({ headers }: FastifyRequest, body: Buffer): InferRequest | RawBody {
  const jsonLength = headerLength(headers[HEADER_LENGTH], body.length);
  if (jsonLength === 0) return { raw: parseUtf8(body) };
  const parsed = parseInferBody(parseUtf8(body.subarray(0, jsonLength)));
  let at = jsonLength;
  const tensors = parsed.inputs.map((input) => {
    const { name, data, parameters } = input;
    const size = parameters?.binary_data_size;
    if (size === undefined) {
      if (data === undefined) throw invalid(name, 'it has no data: send data, or binary_data_size and its bytes');
      return tensorFromJson(input, data);
    }
    if (!Number.isSafeInteger(size) || (size as number) < 0 || at + (size as number) > body.length) {
      throw invalid(
        name,
        `binary_data_size ${size} is not what follows the JSON part: ${body.length - at} bytes are left`,
      );
    }
    at += size as number;
    return tensorFromBytes(input, body.subarray(at - (size as number), at));
  });
  if (at !== body.length) {
    throw new ServerError(
      'MALFORMED_REQUEST',
      `${body.length - at} bytes follow the last tensor: correct binary_data_size or Inference-Header-Content-Length`,
    );
  }
  return { body: parsed, tensors };
}

function headerLength(header: string | string[] | undefined, bodyLength: number): number {
  // Without the extension all of the body is JSON, and an empty one is no raw input.
  if (header === undefined) return Math.max(1, bodyLength);
  const length = typeof header === 'string' && /^\d{1,10}$/.test(header) ? Number(header) : Number.NaN;
  if (length <= bodyLength) return length;
  throw new ServerError(
    'MALFORMED_REQUEST',
    `Inference-Header-Content-Length is not the length of the JSON part: the body has ${bodyLength} bytes`,
  );
}

function parseInferBody(text: string): InferBody {
  const value = parseJson(text);
  if (Value.Check(InferBody, value)) return value;
  const [error] = Value.Errors(InferBody, value);
  if (error === undefined) throw new Error('a body is invalid, but has no error');
  const path = error.instancePath.slice(1).replaceAll('/', '.');
  const missing = error.keyword === 'required' ? error.params.requiredProperties[0] : undefined;
  if (missing !== undefined) {
    const where = path === '' ? missing : `${path}.${missing}`;
    throw new ServerError('INVALID_REQUEST', `${where} is required: ${wantedAt(where)}`, where);
  }
  const where = shorten(path || 'the body');
  throw new ServerError('INVALID_REQUEST', `${where} must be ${wantedAt(path)}`, where);
}

const TENSOR = 'like {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["some text"]}';

/** What stands where in a body, the innermost first. */
const WANTED: readonly (readonly [where: RegExp, what: string])[] = [
  [/(^|\.)parameters\../, 'a text, a number, true or false'],
  [/(^|\.)parameters$/, 'an object of settings by name'],
  [/\.shape\.\d+$/, 'an integer from 0 to 2147483648'],
  [/\.shape$/, `a list of at most ${DIMENSIONS_MAX} integers`],
  [/\.data$/, 'a list of elements'],
  [/\.(name|datatype)$/, 'a text'],
  [/^id$/, 'a text of at most 1024 characters'],
  [/^outputs\.\d+$/, 'an output like {"name": "logprobs"}'],
  [/^outputs$/, 'a list of at most 32 outputs, each like {"name": "logprobs"}'],
  [/^inputs\.\d+$/, `a tensor ${TENSOR}`],
  [/^inputs$/, `a list of 1 to 32 tensors, each ${TENSOR}`],
];

function wantedAt(path: string): string {
  return (
    WANTED.find(([where]) => where.test(path))?.[1] ?? `a JSON object with inputs: a list of tensors, each ${TENSOR}`
  );
}
