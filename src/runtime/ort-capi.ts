/**
 * The backend that serves: ONNX Runtime's C API with I/O binding, called synchronously from the engine's own thread.
 * A tensor is a typed array plus an OrtValue over its memory; reshaping makes a new OrtValue over the same memory (1 us).
 * A graph is a session plus one binding; only names whose tensor or shape changed are bound again.
 */

import koffi from 'koffi';
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
import { type OrtApi, ortApi, type Pointer } from './ort-api.js';

const LOG_ERROR = 3;
const OPTIMISE_ALL = 99;
const DEVICE_ALLOCATOR = 0;
const MEMORY_DEFAULT = 0;

const TYPE_CODES: Readonly<Record<ElementType, number>> = { float32: 1, uint8: 2, int32: 6, int64: 7, bool: 9 };
const TYPE_NAMES = new Map(Object.entries(TYPE_CODES).map(([name, code]) => [code, name as ElementType]));

export interface OrtCapiOptions {
  readonly threads: number;
  /** Idle pool threads spin for the next operator: faster steps, a busier core. */
  readonly spin: boolean;
}

class CapiBackend implements Backend {
  readonly name = 'ort-capi';
  readonly device = 'cpu';
  readonly threads: number;
  readonly api: OrtApi;
  readonly memory: Pointer;
  private readonly env: Pointer;
  private readonly out = new BigUint64Array(1);
  private live = 0;
  private released = false;

  constructor(private readonly options: OrtCapiOptions) {
    this.threads = options.threads;
    this.api = ortApi();
    this.env = this.createEnv();
    this.memory = this.take((out) => this.api.createCpuMemoryInfo(DEVICE_ALLOCATOR, MEMORY_DEFAULT, out));
  }

  /**
   * One pool of threads for all sessions. With a pool each, the threads of the session that ran last still spin on the cores that
   * the next one needs: a step followed by a finish was slower with two threads than with one. The environment is one per process:
   * when onnxruntime-node made it first it has no pool, and opening a session fails with ONNX Runtime's own words.
   */
  private createEnv(): Pointer {
    const { threads, spin } = this.options;
    const threading = this.take((out) => this.api.createThreadingOptions(out));
    try {
      this.api.setGlobalIntraOpThreads(threading, threads);
      this.api.setGlobalInterOpThreads(threading, 1);
      this.api.setGlobalSpinControl(threading, spin ? 1 : 0);
      return this.take((out) => this.api.createEnvWithGlobalThreadPools(LOG_ERROR, 'ponder-serve', threading, out));
    } finally {
      this.give(this.api.releaseThreadingOptions, threading);
    }
  }

  /** Calls a creating function and counts the handle it gives. */
  take(create: (out: BigUint64Array) => void): Pointer {
    create(this.out);
    this.live += 1;
    return this.out[0] as Pointer;
  }

  give(release: (pointer: Pointer) => void, pointer: Pointer): void {
    release(pointer);
    this.live -= 1;
  }

  liveHandles(): number {
    return this.live;
  }

  open(file: string): Graph {
    if (this.released) throw new Error('a released backend was used');
    const options = this.take((out) => this.api.createSessionOptions(out));
    try {
      this.api.setGraphOptimizationLevel(options, OPTIMISE_ALL);
      this.api.disablePerSessionThreads(options);
      // A memory pattern is kept per set of input shapes; the loop's shapes hardly ever repeat, so it would only grow.
      this.api.disableMemPattern(options);
      const session = this.take((out) => this.api.createSession(this.env, file, options, out));
      try {
        return new CapiGraph(this, session);
      } catch (error) {
        this.give(this.api.releaseSession, session);
        throw error;
      }
    } finally {
      this.give(this.api.releaseSessionOptions, options);
    }
  }

  tensor(type: ElementType, capacity: number): Tensor {
    if (this.released) throw new Error('a released backend was used');
    return new CapiTensor(this, type, capacity);
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    this.give(this.api.releaseMemoryInfo, this.memory);
    this.give(this.api.releaseEnv, this.env);
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
    const { api } = this.owner;
    if (this.handle !== null) this.owner.give(api.releaseValue, this.handle);
    const bytes = elementCount(dims) * this.data.BYTES_PER_ELEMENT;
    const shape = BigInt64Array.from(dims, BigInt);
    this.handle = this.owner.take((out) =>
      api.createTensorWithData(this.owner.memory, this.data, bytes, shape, dims.length, TYPE_CODES[this.type], out),
    );
    this.dims = [...dims];
    this.shaped += 1;
  }

  release(): void {
    if (this.handle !== null) this.owner.give(this.owner.api.releaseValue, this.handle);
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
    private readonly owner: CapiBackend,
    private readonly session: Pointer,
  ) {
    const { api } = owner;
    this.inputs = this.describe(api.sessionGetInputCount, api.sessionGetInputName, api.sessionGetInputTypeInfo);
    this.outputs = this.describe(api.sessionGetOutputCount, api.sessionGetOutputName, api.sessionGetOutputTypeInfo);
    this.binding = owner.take((out) => api.createIoBinding(session, out));
  }

  run(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): void {
    if (this.released) throw new Error('a released graph was run');
    const { api } = this.owner;
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

  private describe(
    count: OrtApi['sessionGetInputCount'],
    name: OrtApi['sessionGetInputName'],
    info: OrtApi['sessionGetInputTypeInfo'],
  ) {
    const { api } = this.owner;
    const out = new BigUint64Array(1);
    const read = (create: (out: BigUint64Array) => void) => {
      create(out);
      return out[0] as Pointer;
    };
    const allocator = read((o) => api.getAllocator(o));
    const total = Number(read((o) => count(this.session, o)));
    const specs: Record<string, TensorSpec> = {};
    for (let i = 0; i < total; i++) {
      const text = read((o) => name(this.session, i, allocator, o));
      const key = koffi.decode(text, 'char', -1) as string;
      api.allocatorFree(allocator, text);
      const typeInfo = this.owner.take((o) => info(this.session, i, o));
      try {
        const tensorInfo = read((o) => api.castTypeInfoToTensorInfo(typeInfo, o));
        specs[key] = this.spec(key, tensorInfo);
      } finally {
        this.owner.give(api.releaseTypeInfo, typeInfo);
      }
    }
    return specs;
  }

  private spec(name: string, info: Pointer): TensorSpec {
    const { api } = this.owner;
    const code = new Int32Array(1);
    api.getTensorElementType(info, code);
    const type = TYPE_NAMES.get(code[0] as number);
    if (type === undefined)
      throw new RuntimeFailure('open', `${name} has element type ${code[0]}, which the engine does not use`);
    const rank = new BigUint64Array(1);
    api.getDimensionsCount(info, rank);
    const dims = new BigInt64Array(Number(rank[0]));
    const names = new BigUint64Array(dims.length);
    if (dims.length > 0) {
      api.getDimensions(info, dims, dims.length);
      api.getSymbolicDimensions(info, names, dims.length);
    }
    return {
      type,
      dims: Array.from(dims, (dim, i) =>
        dim >= 0n ? Number(dim) : (koffi.decode(names[i] as Pointer, 'char', -1) as string),
      ),
    };
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    this.owner.give(this.owner.api.releaseIoBinding, this.binding);
    this.owner.give(this.owner.api.releaseSession, this.session);
    this.bound.clear();
  }
}

/** Throws RuntimeFailure when the library can't be loaded. */
export function openOrtCapi(options: OrtCapiOptions): Backend {
  return new CapiBackend(options);
}
