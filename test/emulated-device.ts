/**
 * A device on the CPU: float16 graphs run on their model-local functions, buffers are arrays, and what is enqueued runs at once. Outputs are
 * written apart and copied back, since a function, unlike a native operator, may still read an input after it has begun to write.
 */
import {
  type Backend,
  type ElementType,
  elementCount,
  type Graph,
  type HostArray,
  hostArray,
  type Tensor,
} from '../src/runtime/backend.js';
import type {
  BoundRun,
  Device,
  DeviceBuffer,
  DeviceGraph,
  Marker,
  PinnedArray,
  Sequence,
  View,
} from '../src/runtime/device.js';

class Emulated implements DeviceBuffer {
  readonly data: HostArray;
  constructor(
    readonly type: ElementType,
    readonly capacity: number,
  ) {
    this.data = hostArray(type, capacity);
  }
  release(): void {}
}

const dataOf = (buffer: DeviceBuffer): HostArray => (buffer as Emulated).data;
const bytesOf = ({ buffer, byteOffset, byteLength }: HostArray) => new Uint8Array(buffer, byteOffset, byteLength);

function part({ buffer, dims, start = 0 }: View): HostArray {
  const count = elementCount(dims);
  if (start + count > buffer.capacity) throw new RangeError('a view exceeds its buffer');
  return dataOf(buffer).subarray(start, start + count);
}

class EmulatedRun implements BoundRun {
  private readonly inputs: Record<string, Tensor> = {};
  private readonly outputs: Record<string, Tensor> = {};

  constructor(
    backend: Backend,
    private readonly graph: Graph,
    private readonly ins: Readonly<Record<string, View>>,
    private readonly outs: Readonly<Record<string, View>>,
  ) {
    const tensor = (view: View | undefined, name: string) => {
      if (view === undefined) throw new Error(`no buffer is bound to ${name}`);
      const made = backend.tensor(view.buffer.type, elementCount(view.dims));
      made.reshape(view.dims);
      return made;
    };
    for (const name in graph.inputs) this.inputs[name] = tensor(ins[name], name);
    for (const name in graph.outputs) this.outputs[name] = tensor(outs[name], name);
  }

  enqueue(): void {
    for (const [name, { data }] of Object.entries(this.inputs)) {
      const from = part(this.ins[name] as View);
      bytesOf(data).set(bytesOf(from));
    }
    this.graph.run(this.inputs, this.outputs);
    for (const [name, { data }] of Object.entries(this.outputs)) {
      const to = part(this.outs[name] as View);
      bytesOf(to).set(bytesOf(data).subarray(0, to.byteLength));
    }
  }

  release(): void {
    for (const tensor of [...Object.values(this.inputs), ...Object.values(this.outputs)]) tensor.release();
  }
}

class EmulatedMarker implements Marker {
  private at = 0;
  record(): void {
    this.at = performance.now();
  }
  passed(): boolean {
    return true;
  }
  wait(): void {}
  since(earlier: Marker): number {
    return this.at - (earlier as EmulatedMarker).at;
  }
  release(): void {}
}

export class EmulatedDevice implements Device {
  readonly name = 'emulated';
  readonly device = 'cuda:0';

  constructor(private readonly backend: Backend) {}

  open(file: string): DeviceGraph {
    const { backend } = this;
    const graph = backend.open(file) as Graph;
    return {
      inputs: graph.inputs,
      outputs: graph.outputs,
      bind: (inputs, outputs) => new EmulatedRun(backend, graph, inputs, outputs),
      release: () => graph.release(),
    };
  }

  buffer(type: ElementType, capacity: number): DeviceBuffer {
    return new Emulated(type, capacity);
  }

  pinned(type: ElementType, capacity: number): PinnedArray {
    return new Emulated(type, capacity);
  }

  int32(capacity: number): PinnedArray<Int32Array> {
    return new Emulated('int32', capacity) as PinnedArray<Int32Array>;
  }

  float32(capacity: number): PinnedArray<Float32Array> {
    return new Emulated('float32', capacity) as PinnedArray<Float32Array>;
  }

  fill(buffer: DeviceBuffer, byte: number): void {
    bytesOf(dataOf(buffer)).fill(byte);
  }

  upload(from: PinnedArray, to: DeviceBuffer, toStart: number, count: number): void {
    const target = bytesOf(dataOf(to).subarray(toStart, toStart + count));
    target.set(bytesOf(from.data).subarray(0, target.byteLength));
  }

  download(from: DeviceBuffer, to: PinnedArray, toStart: number, count: number): void {
    bytesOf(to.data.subarray(toStart, toStart + count)).set(bytesOf(dataOf(from).subarray(0, count)));
  }

  capture(enqueue: () => void): Sequence {
    return { launch: enqueue, release() {} };
  }

  marker(): Marker {
    return new EmulatedMarker();
  }

  synchronise(): void {}

  memory() {
    return { usedBytes: 0, totalBytes: 0 };
  }

  beside(): Device {
    return this;
  }

  liveHandles(): number {
    return this.backend.liveHandles();
  }

  release(): void {}
}
