/**
 * ONNX files of a node or two, written by hand (protobuf: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), for what the
 * package's own graphs can't show.
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
