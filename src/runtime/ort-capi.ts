/**
 * The backend that serves: ONNX Runtime's C API with I/O binding, called synchronously from the engine's own thread.
 * A tensor is a typed array plus an OrtValue over its memory; reshaping makes a new OrtValue over the same memory (1 us).
 * A graph is a session plus one binding; only names whose tensor or shape changed are bound again.
 */

import {
  type Backend,
  checkedShape,
  type ElementType,
  elementCount,
  type Graph,
  type HostArray,
  hostArray,
  RuntimeFailure,
  type Tensor,
  type TensorSpec,
} from './backend.js';
import type { OrtApi, Pointer } from './ort-api.js';
import { OrtRuntime, type OrtThreads, TYPE_CODES } from './ort-runtime.js';

const DEVICE_ALLOCATOR = 0;
const MEMORY_DEFAULT = 0;

class CapiBackend implements Backend {
  readonly name = 'ort-capi';
  readonly device = 'cpu';
  readonly threads: number;
  readonly runtime: OrtRuntime;
  readonly memory: Pointer;
  private released = false;

  constructor(options: OrtThreads) {
    this.threads = options.threads;
    this.runtime = new OrtRuntime(options);
    const { api } = this.runtime;
    this.memory = this.runtime.take((out) => api.createCpuMemoryInfo(DEVICE_ALLOCATOR, MEMORY_DEFAULT, out), 'memory');
  }

  liveHandles(): number {
    return this.runtime.liveHandles;
  }

  open(file: string): Graph {
    if (this.released) throw new Error('a released backend was used');
    const session = this.runtime.session(file);
    try {
      return new CapiGraph(this.runtime, session);
    } catch (error) {
      this.runtime.give(this.runtime.api.releaseSession, session, 'session');
      throw error;
    }
  }

  tensor(type: ElementType, capacity: number): Tensor {
    if (this.released) throw new Error('a released backend was used');
    return new CapiTensor(this, type, capacity);
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    this.runtime.give(this.runtime.api.releaseMemoryInfo, this.memory, 'memory');
    this.runtime.release();
  }
}

class CapiTensor implements Tensor {
  readonly data: HostArray;
  dims: readonly number[] = [];
  /** Counts the shapes taken. A handle can't tell them apart: a new OrtValue may get the address of the last one. */
  shaped = 0;
  private handle: Pointer | null = null;
  private released = false;

  constructor(
    private readonly owner: CapiBackend,
    readonly type: ElementType,
    private readonly capacity: number,
  ) {
    // At least one element: an empty array has no address, and a shape may hold a 0.
    this.data = hostArray(type, Math.max(1, capacity));
    this.reshape([capacity]);
  }

  /** The OrtValue of the current shape; changes with every reshape. */
  get value(): Pointer {
    if (this.handle === null) throw new Error('a released tensor was used');
    return this.handle;
  }

  reshape(dims: readonly number[]): void {
    if (this.released) throw new Error('a released tensor was used');
    if (!checkedShape(this.dims, dims, this.capacity) && this.handle !== null) return;
    const { runtime, memory } = this.owner;
    if (this.handle !== null) runtime.give(runtime.api.releaseValue, this.handle);
    const bytes = elementCount(dims) * this.data.BYTES_PER_ELEMENT;
    const shape = BigInt64Array.from(dims, BigInt);
    this.handle = runtime.take((out) =>
      runtime.api.createTensorWithData(memory, this.data, bytes, shape, dims.length, TYPE_CODES[this.type], out),
    );
    this.dims = [...dims];
    this.shaped += 1;
  }

  release(): void {
    const { runtime } = this.owner;
    if (this.handle !== null) runtime.give(runtime.api.releaseValue, this.handle);
    this.handle = null;
    this.released = true;
  }
}

class CapiGraph implements Graph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  private readonly binding: Pointer;
  // What each name is bound to. The tensor is held, not just its handle: its memory must outlive the binding.
  private readonly bound = new Map<string, { tensor: CapiTensor; shaped: number }>();
  private released = false;

  constructor(
    private readonly runtime: OrtRuntime,
    private readonly session: Pointer,
  ) {
    const { inputs, outputs } = runtime.specs(session);
    this.inputs = inputs;
    this.outputs = outputs;
    this.binding = runtime.take((out) => runtime.api.createIoBinding(session, out), 'binding');
  }

  run(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): void {
    if (this.released) throw new Error('a released graph was run');
    const { api } = this.runtime;
    for (const name in this.inputs) this.bind('in:', name, inputs[name], api.bindInput);
    for (const name in this.outputs) this.bind('out:', name, outputs[name], api.bindOutput);
    api.runWithBinding(this.session, null, this.binding);
  }

  private bind(side: 'in:' | 'out:', name: string, tensor: Tensor | undefined, call: OrtApi['bindInput']): void {
    if (!(tensor instanceof CapiTensor)) throw new RuntimeFailure('run', `no tensor is bound to ${name}`);
    const key = side + name;
    const { shaped } = tensor;
    const last = this.bound.get(key);
    if (last?.tensor === tensor && last.shaped === shaped) return;
    call(this.binding, name, tensor.value);
    this.bound.set(key, { tensor, shaped });
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    this.runtime.give(this.runtime.api.releaseIoBinding, this.binding, 'binding');
    this.runtime.give(this.runtime.api.releaseSession, this.session, 'session');
    this.bound.clear();
  }
}

/** Throws RuntimeFailure when the library can't be loaded. */
export function openOrtCapi(options: OrtThreads): Backend {
  return new CapiBackend(options);
}
