/**
 * ONNX files read and written by hand (protobuf: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): files of a node or two, for what the
 * package's own graphs can't show, and where a package's constants lie, for spoiling them.
 */
const varint = (value: number): number[] =>
  value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
const field = (number: number, value: number): number[] => [...varint(number * 8), ...varint(value)];
const bytes = (number: number, payload: readonly number[]): number[] => [
  ...varint(number * 8 + 2),
  ...varint(payload.length),
  ...payload,
];
const text = (number: number, value: string): number[] => bytes(number, [...Buffer.from(value)]);

/** Element types of TensorProto. */
export const FLOAT = 1;
export const DOUBLE = 11;

export interface Value {
  readonly name: string;
  readonly type: number;
  readonly dims: readonly (number | string)[];
}

export interface Node {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

function valueInfo({ name, type, dims }: Value): number[] {
  const shape = dims.flatMap((dim) => bytes(1, typeof dim === 'number' ? field(1, dim) : text(2, dim)));
  return [...text(1, name), ...bytes(2, bytes(1, [...field(1, type), ...bytes(2, shape)]))];
}

function nodeProto({ op, inputs, outputs }: Node): number[] {
  return [...inputs.flatMap((i) => text(1, i)), ...outputs.flatMap((o) => text(2, o)), ...text(4, op)];
}

export function onnxFile(nodes: readonly Node[], inputs: readonly Value[], outputs: readonly Value[]): Uint8Array {
  const graph = [
    ...nodes.flatMap((node) => bytes(1, nodeProto(node))),
    ...text(2, 'tiny'),
    ...inputs.flatMap((value) => bytes(11, valueInfo(value))),
    ...outputs.flatMap((value) => bytes(12, valueInfo(value))),
  ];
  return Uint8Array.from([...field(1, 10), ...bytes(7, graph), ...bytes(8, field(2, 21))]);
}

/** y = x + x over [rows, 2]. */
export function doubling(type = FLOAT): Uint8Array {
  const value = (name: string) => ({ name, type, dims: ['rows', 2] });
  return onnxFile([{ op: 'Add', inputs: ['x', 'x'], outputs: ['y'] }], [value('x')], [value('y')]);
}

/** Where a constant's elements lie in the package's weights file. */
export interface ExternalConstant {
  readonly type: number;
  readonly offset: number;
  readonly bytes: number;
}

/** The constants of an ONNX file that lie in another file, by name. */
export function externalConstants(onnx: Uint8Array): Map<string, ExternalConstant> {
  const found = new Map<string, ExternalConstant>();
  for (const [, graph] of fields(onnx, 7)) {
    for (const [, tensor] of fields(graph as Uint8Array, 5)) {
      const parts = fields(tensor as Uint8Array);
      const entries = parts.filter(([number]) => number === 13).map(([, entry]) => fields(entry as Uint8Array));
      const external = new Map(entries.map((entry) => [string(entry, 1), string(entry, 2)]));
      const type = parts.find(([number]) => number === 2)?.[1] as number;
      const [offset, length] = [Number(external.get('offset')), Number(external.get('length'))];
      if (length > 0) found.set(string(parts, 8), { type, offset, bytes: length });
    }
  }
  return found;
}

type Field = readonly [number: number, value: number | Uint8Array];

function string(parts: readonly Field[], number: number): string {
  return Buffer.from((parts.find(([n]) => n === number)?.[1] as Uint8Array | undefined) ?? []).toString();
}

/** The fields of a message, or those of one number. Only the wire types that ONNX files hold. */
function fields(message: Uint8Array, only?: number): Field[] {
  const found: Field[] = [];
  let at = 0;
  const readVarint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = message[at++] as number;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = readVarint();
    const number = Math.floor(key / 8);
    if (key % 8 === 0) found.push([number, readVarint()]);
    else if (key % 8 === 5) at += 4;
    else {
      const length = readVarint();
      found.push([number, message.subarray(at, at + length)]);
      at += length;
    }
  }
  return only === undefined ? found : found.filter(([number]) => number === only);
}
