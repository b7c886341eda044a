/**
 * A device as a `Backend`, for families that write their tables a step at a time: tensors lie in the host's memory, where the device reads and
 * writes them itself, pools on the device. A run waits for its end. Slower than a stack that stays on the device (families/resident-stack.ts), and
 * enough where a step is long.
 */
import {
  type Backend,
  checkedShape,
  type ElementType,
  type Graph,
  type HostArray,
  RuntimeFailure,
  type Tensor,
  type TensorSpec,
} from './backend.js';
import type { BoundRun, Device, DeviceBuffer, DeviceGraph, PinnedArray } from './device.js';

class HostedTensor implements Tensor {
  dims: readonly number[];
  /** Counts the shapes taken. */
  shaped = 0;

  constructor(
    readonly buffer: DeviceBuffer,
    private readonly host: PinnedArray | null,
  ) {
    this.dims = [buffer.capacity];
  }

  get type(): ElementType {
    return this.buffer.type;
  }

  get data(): HostArray {
    if (this.host === null) throw new Error('the host has no view of a pool');
    return this.host.data;
  }

  reshape(dims: readonly number[]): void {
    if (!checkedShape(this.dims, dims, this.buffer.capacity)) return;
    this.dims = [...dims];
    this.shaped += 1;
  }

  release(): void {
    this.buffer.release();
  }
}

type Bound = Readonly<Record<string, Tensor>>;

class HostedGraph implements Graph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  private bound: BoundRun | null = null;
  private key = '';
  private readonly numbers = new WeakMap<Tensor, number>();
  private numbered = 0;

  constructor(
    private readonly device: Device,
    private readonly graph: DeviceGraph,
  ) {
    this.inputs = graph.inputs;
    this.outputs = graph.outputs;
  }

  run(inputs: Bound, outputs: Bound): void {
    const key = this.keyOf(inputs, outputs);
    if (this.bound === null || this.key !== key) {
      this.bound?.release();
      this.bound = this.graph.bind(views(this.inputs, inputs), views(this.outputs, outputs));
      this.key = key;
    }
    this.bound.enqueue();
    this.device.synchronise();
  }

  /** Which tensors are bound, and in which shapes. */
  private keyOf(inputs: Bound, outputs: Bound): string {
    const part = (names: Readonly<Record<string, TensorSpec>>, tensors: Bound) =>
      Object.keys(names).map((name) => {
        const tensor = tensors[name];
        if (!(tensor instanceof HostedTensor)) throw new RuntimeFailure('run', `no tensor is bound to ${name}`);
        let number = this.numbers.get(tensor);
        if (number === undefined) {
          this.numbered += 1;
          number = this.numbered;
          this.numbers.set(tensor, number);
        }
        return `${number}:${tensor.shaped}`;
      });
    return [...part(this.inputs, inputs), ...part(this.outputs, outputs)].join(' ');
  }

  release(): void {
    this.bound?.release();
    this.bound = null;
    this.graph.release();
  }
}

function views(names: Readonly<Record<string, TensorSpec>>, tensors: Bound) {
  return Object.fromEntries(
    Object.keys(names).map((name) => {
      const { buffer, dims } = tensors[name] as HostedTensor;
      return [name, { buffer, dims }];
    }),
  );
}

export class HostedBackend implements Backend {
  readonly name = 'ort-cuda';

  constructor(
    private readonly deviceOf: Device,
    readonly threads: number,
  ) {}

  get device(): string {
    return this.deviceOf.device;
  }

  open(file: string): Graph {
    return new HostedGraph(this.deviceOf, this.deviceOf.open(file));
  }

  tensor(type: ElementType, capacity: number): Tensor {
    // At least one element: an empty array has no address, and a shape may hold a 0.
    const memory = this.deviceOf.pinned(type, Math.max(1, capacity));
    const { buffer, byteOffset, byteLength } = memory.data;
    new Uint8Array(buffer, byteOffset, byteLength).fill(0);
    return new HostedTensor(memory, memory);
  }

  pool(type: ElementType, capacity: number): Tensor {
    const memory = this.deviceOf.buffer(type, capacity);
    this.deviceOf.fill(memory, 0);
    return new HostedTensor(memory, null);
  }

  liveHandles(): number {
    return this.deviceOf.liveHandles();
  }

  /** The device belongs to who opened it. */
  release(): void {}
}
