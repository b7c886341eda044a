/**
 * Tensors of the Open Inference Protocol: their data types, and both ways to write them. As JSON a tensor is a list of its elements; in
 * the binary extension its bytes follow the JSON part, little-endian, and an element of BYTES is a length (u32) and as many bytes.
 */
import { isUtf8 } from 'node:buffer';
import { ServerError } from '../errors.js';
import { parseUtf8 } from './json-body.js';
import { shorten } from './validation.js';

export const DIMENSIONS_MAX = 8;

interface NumberType {
  readonly bytes: number;
  readonly read: (view: DataView, at: number) => number;
}

/** Integers beyond 2^53 lose digits; no field of ours reaches that far, and its range check will say so. */
const NUMBER_TYPES: Readonly<Record<string, NumberType>> = {
  BOOL: { bytes: 1, read: (view, at) => view.getUint8(at) },
  UINT8: { bytes: 1, read: (view, at) => view.getUint8(at) },
  UINT16: { bytes: 2, read: (view, at) => view.getUint16(at, true) },
  UINT32: { bytes: 4, read: (view, at) => view.getUint32(at, true) },
  UINT64: { bytes: 8, read: (view, at) => Number(view.getBigUint64(at, true)) },
  INT8: { bytes: 1, read: (view, at) => view.getInt8(at) },
  INT16: { bytes: 2, read: (view, at) => view.getInt16(at, true) },
  INT32: { bytes: 4, read: (view, at) => view.getInt32(at, true) },
  INT64: { bytes: 8, read: (view, at) => Number(view.getBigInt64(at, true)) },
  FP32: { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  FP64: { bytes: 8, read: (view, at) => view.getFloat64(at, true) },
};

/** What a client sent. */
export interface InputTensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  /** Elements in row-major order: texts of BYTES, numbers of all others. */
  readonly elements: readonly string[] | readonly number[];
}

/** What it gets back. */
export interface OutputTensor {
  readonly name: string;
  readonly datatype: 'BYTES' | 'FP32' | 'INT32';
  readonly shape: readonly number[];
  readonly elements: readonly string[] | Float32Array | Int32Array;
}

export function outputTensor(
  name: string,
  elements: OutputTensor['elements'],
  shape: readonly number[] = [elements.length],
): OutputTensor {
  const datatype =
    elements instanceof Float32Array ? 'FP32' : elements instanceof Int32Array ? 'INT32' : ('BYTES' as const);
  return { name, datatype, shape, elements };
}

export interface TensorHeader {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
}

/** @throws ServerError INVALID_REQUEST */
export function tensorFromJson(header: TensorHeader, data: readonly unknown[]): InputTensor {
  const { name, datatype, shape } = header;
  // Nested lists are allowed, as deep as a shape can be; only the shape counts.
  const elements: readonly unknown[] = data.flat(DIMENSIONS_MAX);
  expectCount(header, elements.length);
  const type = datatype === 'BYTES' ? 'string' : numberType(header) && 'number';
  const odd = elements.findIndex(
    (element) => typeof element !== type && !(datatype === 'BOOL' && typeof element === 'boolean'),
  );
  if (odd >= 0) {
    const wanted = datatype === 'BYTES' ? 'texts' : 'numbers';
    throw invalid(name, `data must be a list of ${wanted}, but element ${odd} is none (datatype ${datatype})`);
  }
  return { name, datatype, shape, elements: datatype === 'BYTES' ? (elements as string[]) : elements.map(Number) };
}

/** @throws ServerError INVALID_REQUEST */
export function tensorFromBytes(header: TensorHeader, bytes: Buffer): InputTensor {
  const { name, datatype, shape } = header;
  if (datatype === 'BYTES') {
    const elements = [...textsIn(name, bytes)];
    expectCount(header, elements.length);
    return { name, datatype, shape, elements };
  }
  const { bytes: width, read } = numberType(header);
  if (bytes.length % width !== 0) {
    throw invalid(name, `binary_data_size ${bytes.length} is no multiple of ${width}, the bytes of one ${datatype}`);
  }
  expectCount(header, bytes.length / width);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    name,
    datatype,
    shape,
    elements: Array.from({ length: bytes.length / width }, (_, i) => read(view, i * width)),
  };
}

function* textsIn(name: string, bytes: Buffer): Generator<string> {
  let element = 0;
  for (let at = 0; at < bytes.length; ) {
    const length = at + 4 <= bytes.length ? bytes.readUInt32LE(at) : Number.POSITIVE_INFINITY;
    at += 4;
    if (at + length > bytes.length) {
      throw invalid(
        name,
        'its bytes end within an element: each is its length as 32 bits, little-endian, and its bytes',
      );
    }
    yield textAt(name, element, bytes.subarray(at, at + length));
    at += length;
    element += 1;
  }
}

function textAt(name: string, element: number, bytes: Buffer): string {
  if (isUtf8(bytes)) return parseUtf8(bytes);
  throw invalid(`${name}[${element}]`, 'its bytes are not valid UTF-8: encode it as UTF-8');
}

function numberType(header: TensorHeader): NumberType {
  const type = Object.hasOwn(NUMBER_TYPES, header.datatype) ? NUMBER_TYPES[header.datatype] : undefined;
  if (type !== undefined) return type;
  const known = ['BYTES', ...Object.keys(NUMBER_TYPES)].join(', ');
  throw invalid(header.name, `datatype '${shorten(header.datatype)}' is not supported: use one of ${known}`);
}

function expectCount({ name, shape }: TensorHeader, count: number): void {
  const wanted = shape.reduce((product, length) => product * length, 1);
  if (wanted === count) return;
  throw invalid(
    name,
    `shape [${shape.join(',')}] means ${wanted} elements, but there are ${count}: correct one of them`,
  );
}

export function bytesOf({ elements }: OutputTensor): Buffer {
  if (elements instanceof Float32Array || elements instanceof Int32Array) return littleEndian(elements);
  return Buffer.concat(
    elements.flatMap((text) => {
      const bytes = Buffer.from(text);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      return [length, bytes];
    }),
  );
}

/** Machines that Node runs on with another byte order (s390x) must swap. */
function littleEndian({ buffer, byteOffset, byteLength }: Float32Array | Int32Array): Buffer {
  const bytes = Buffer.from(buffer, byteOffset, byteLength);
  const isLittle = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
  return isLittle ? bytes : Buffer.from(bytes).swap32();
}

export function invalid(name: string, what: string): ServerError {
  const shown = shorten(name);
  return new ServerError('INVALID_REQUEST', `input '${shown}': ${what}`, shown);
}
