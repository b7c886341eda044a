/**
 * The seam between the engine and an inference runtime, kept small: open a graph, make tensors, run a graph with bound tensors.
 * `ort-capi.ts` serves; `ort-node.ts` is the portable fallback and the oracle of tests. Nothing above knows which one runs.
 *
 * Every object here has one owner, who calls `release` once; a released object throws when used.
 */

export type ElementType = 'float32' | 'float16' | 'int32' | 'int64' | 'bool' | 'uint8';

/** What holds the elements of a tensor on the host; those of float16 as their bits. */
export type HostArray = Float32Array | Uint16Array | Int32Array | BigInt64Array | Uint8Array;

export interface TensorSpec {
  readonly type: ElementType;
  /** A number where the graph fixes the dimension, a name where it is symbolic. */
  readonly dims: readonly (number | string)[];
}

/**
 * A tensor over memory of a fixed capacity whose shape may change from run to run, so that the loop allocates nothing in steady
 * state. On the CPU `data` IS the tensor's memory: what the host writes there the next run sees.
 */
export interface Tensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  /** All `capacity` elements; the first product(dims) are in use. */
  readonly data: HostArray;
  /** Sets the shape. Throws RangeError when its elements exceed the capacity. */
  reshape(dims: readonly number[]): void;
  release(): void;
}

export interface Graph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  /**
   * Runs the graph with one tensor a name. The same tensor may be bound as an input and as an output: a scatter then writes in
   * place. Synchronous when the backend is; a caller awaits only what is a promise. Throws RuntimeFailure.
   */
  run(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): void | Promise<void>;
  release(): void;
}

export interface Backend {
  readonly name: 'ort-capi' | 'ort-node' | 'ort-cuda';
  readonly device: string;
  readonly threads: number;
  /** Opens an .onnx file (its weights may lie in a file beside it). Throws RuntimeFailure with the runtime's own message. */
  open(file: string): Graph | Promise<Graph>;
  tensor(type: ElementType, capacity: number): Tensor;
  /** A tensor whose `data` nobody looks at, all zero; absent: `tensor` will do. */
  pool?(type: ElementType, capacity: number): Tensor;
  /** Native objects not yet released: 0 after a clean shutdown. */
  liveHandles(): number;
  release(): void | Promise<void>;
}

/** The runtime refused or failed; the message is its own. */
export class RuntimeFailure extends Error {
  constructor(what: string, message: string) {
    super(`${what}: ${message}`);
    this.name = 'RuntimeFailure';
  }
}

/** A broken model or kernel: its numbers are an error, not an answer. */
export function notANumber(what: string): RuntimeFailure {
  return new RuntimeFailure(what, 'the model computed a log-probability that is not a number');
}

export function hostArray(type: ElementType, capacity: number): HostArray {
  switch (type) {
    case 'float32':
      return new Float32Array(capacity);
    case 'float16':
      return new Uint16Array(capacity);
    case 'int32':
      return new Int32Array(capacity);
    case 'int64':
      return new BigInt64Array(capacity);
    case 'bool':
    case 'uint8':
      return new Uint8Array(capacity);
    default:
      return type satisfies never;
  }
}

export function elementCount(dims: readonly number[]): number {
  let count = 1;
  for (const dim of dims) count *= dim;
  return count;
}

/** Shape bookkeeping both backends share: true when the shape changed. */
export function checkedShape(current: readonly number[], dims: readonly number[], capacity: number): boolean {
  if (elementCount(dims) > capacity) {
    throw new RangeError(`a tensor of ${capacity} elements cannot take the shape [${dims.join(', ')}]`);
  }
  return dims.length !== current.length || dims.some((dim, i) => dim !== current[i]);
}
