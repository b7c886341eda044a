/** The reply to an inference: JSON, or JSON and bytes behind it, compressed when the client says that it can read that. */
import { Readable } from 'node:stream';
import { createDeflate, createGzip } from 'node:zlib';
import type { FastifyReply } from 'fastify';
import { HEADER_LENGTH } from './kserve-body.js';
import { MODEL_VERSION } from './kserve-models.js';
import type { InferOrder } from './kserve-order.js';
import { bytesOf, type OutputTensor } from './kserve-tensors.js';
import { paced } from './reply-pieces.js';

/** Elements written as JSON between two turns of the event loop: about a millisecond. */
const ELEMENTS_PER_PIECE = 4096;
/** Below this compressing costs more than it saves. */
const COMPRESSED_BYTES_MIN = 1024;

export interface InferReply {
  readonly model: string;
  readonly id: string | null;
  readonly outputs: readonly OutputTensor[];
  /** Facts about the whole request. */
  readonly parameters: Readonly<Record<string, number>>;
}

/** @param wanted which outputs, in which order, and which of them as bytes */
export function sendInferReply(
  reply: FastifyReply,
  { model, id, outputs, parameters }: InferReply,
  wanted: InferOrder['outputs'],
): FastifyReply {
  const chosen = wanted.flatMap(({ name, binary }) => {
    const tensor = outputs.find((output) => output.name === name);
    return tensor === undefined ? [] : [{ tensor, bytes: binary ? bytesOf(tensor) : null }];
  });
  const head = { ...(id === null ? {} : { id }), model_name: model, model_version: MODEL_VERSION, parameters };
  const json = jsonPieces(head, chosen);
  const blobs = chosen.flatMap(({ bytes }) => (bytes === null ? [] : [bytes]));
  if (blobs.length > 0) {
    const text = Buffer.from([...json].join(''));
    reply.header(HEADER_LENGTH, String(text.length)).type('application/octet-stream');
    return send(reply, Buffer.concat([text, ...blobs]));
  }
  reply.type('application/json; charset=utf-8');
  const elements = chosen.reduce((sum, { tensor }) => sum + tensor.elements.length, 0);
  if (elements <= ELEMENTS_PER_PIECE) return send(reply, Buffer.from([...json].join('')));
  return send(reply, Readable.from(paced(json), { objectMode: false }));
}

interface Chosen {
  readonly tensor: OutputTensor;
  readonly bytes: Buffer | null;
}

function* jsonPieces(head: object, chosen: readonly Chosen[]): Generator<string> {
  yield `${JSON.stringify(head).slice(0, -1)},"outputs":[`;
  for (const [i, { tensor, bytes }] of chosen.entries()) {
    const { name, datatype, shape, elements } = tensor;
    const parameters = bytes === null ? {} : { parameters: { binary_data_size: bytes.length } };
    yield `${i > 0 ? ',' : ''}${JSON.stringify({ name, datatype, shape, ...parameters }).slice(0, -1)}`;
    if (bytes === null) {
      yield ',"data":[';
      for (let at = 0; at < elements.length; at += ELEMENTS_PER_PIECE) {
        const part = Array.from(elements.slice(at, at + ELEMENTS_PER_PIECE) as ArrayLike<string | number>);
        yield (at > 0 ? ',' : '') + JSON.stringify(part).slice(1, -1);
      }
      yield ']';
    }
    yield '}';
  }
  yield ']}';
}

function send(reply: FastifyReply, body: Buffer | Readable): FastifyReply {
  const encoding = acceptedEncoding(reply.request.headers['accept-encoding']);
  reply.header('vary', 'accept-encoding');
  if (encoding === null || (Buffer.isBuffer(body) && body.length < COMPRESSED_BYTES_MIN)) return reply.send(body);
  const compress = encoding === 'gzip' ? createGzip() : createDeflate();
  const source = Buffer.isBuffer(body) ? Readable.from([body], { objectMode: false }) : body;
  return reply.header('content-encoding', encoding).send(source.pipe(compress));
}

/** gzip before deflate, as clients agree on what that is. */
function acceptedEncoding(header: string | string[] | undefined): 'gzip' | 'deflate' | null {
  const accepted = String(header ?? '')
    .toLowerCase()
    .split(',')
    .map((part) => part.trim().split(/\s*;\s*q\s*=\s*/))
    .filter(([, quality = '1']) => Number(quality) > 0)
    .map(([name]) => name);
  return (['gzip', 'deflate'] as const).find((name) => accepted.includes(name)) ?? null;
}
