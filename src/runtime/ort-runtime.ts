/** What sessions on the CPU and on a GPU share: the environment with its pool of threads, the count of native handles, and how a session is read. */
import koffi from 'koffi';
import { type ElementType, RuntimeFailure, type TensorSpec } from './backend.js';
import { trimFreeMemory } from './free-memory.js';
import { type HandleKind, HandleLedger } from './handle-ledger.js';
import { type OrtApi, ortApi, type Pointer } from './ort-api.js';

const LOG_ERROR = 3;
const OPTIMISE_ALL = 99;

export const TYPE_CODES: Readonly<Record<ElementType, number>> = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
};
const TYPE_NAMES = new Map(Object.entries(TYPE_CODES).map(([name, code]) => [code, name as ElementType]));

export interface OrtThreads {
  readonly threads: number;
  /** Idle pool threads spin for the next operator: faster steps, a busier core. */
  readonly spin: boolean;
  /** Where this thread's handles are written down, and those of a predecessor that was killed; for one runtime of a thread. */
  readonly handles?: SharedArrayBuffer;
}

export interface SessionSpecs {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
}

export class OrtRuntime {
  readonly api: OrtApi;
  private readonly env: Pointer;
  private readonly out = new BigUint64Array(1);
  private live = 0;
  private readonly ledger: HandleLedger | null;

  /** Throws RuntimeFailure when the library can't be loaded. */
  constructor(private readonly options: OrtThreads) {
    this.api = ortApi();
    this.ledger = options.handles === undefined ? null : new HandleLedger(options.handles);
    this.env = this.inherit() ?? this.createEnv();
  }

  /** Releases what a predecessor left, and takes over its environment, which is one per process. Null: there was none. */
  private inherit(): Pointer | null {
    const { releaseMemoryInfo: memory, releaseSession: session, releaseIoBinding: binding } = this.api;
    const release = { memory, session, binding };
    const leftovers = this.ledger?.takeAll() ?? [];
    let inherited: Pointer | null = null;
    for (const { kind, address } of leftovers) {
      if (kind === 'env') inherited = this.take((out) => void out.set([address]), 'env');
      else release[kind](address);
    }
    if (leftovers.length > 0) trimFreeMemory();
    return inherited;
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
      return this.take(
        (out) => this.api.createEnvWithGlobalThreadPools(LOG_ERROR, 'ponder-serve', threading, out),
        'env',
      );
    } finally {
      this.give(this.api.releaseThreadingOptions, threading);
    }
  }

  /** Calls a creating function and counts the handle it gives; one with a kind is large, and written down. */
  take(create: (out: BigUint64Array) => void, kind?: HandleKind): Pointer {
    const handle = this.read(create);
    this.live += 1;
    if (kind !== undefined) this.ledger?.add(kind, handle);
    return handle;
  }

  /** Calls a function that gives a handle which is not ours to release. */
  read(create: (out: BigUint64Array) => void): Pointer {
    create(this.out);
    return this.out[0] as Pointer;
  }

  give(release: (pointer: Pointer) => void, pointer: Pointer, kind?: HandleKind): void {
    if (kind !== undefined) this.ledger?.remove(pointer);
    release(pointer);
    this.live -= 1;
  }

  get liveHandles(): number {
    return this.live;
  }

  /** Opens a session; `configure` adds what the provider needs. */
  session(file: string, configure: (options: Pointer) => void = () => {}): Pointer {
    const options = this.take((out) => this.api.createSessionOptions(out));
    try {
      this.api.setGraphOptimizationLevel(options, OPTIMISE_ALL);
      this.api.disablePerSessionThreads(options);
      // A memory pattern is kept per set of input shapes; the loop's shapes hardly ever repeat, so it would only grow.
      this.api.disableMemPattern(options);
      configure(options);
      return this.take((out) => this.api.createSession(this.env, file, options, out), 'session');
    } finally {
      this.give(this.api.releaseSessionOptions, options);
    }
  }

  /** Names, types and shapes of a session's inputs and outputs. */
  specs(session: Pointer): SessionSpecs {
    const { api } = this;
    return {
      inputs: this.side(session, api.sessionGetInputCount, api.sessionGetInputName, api.sessionGetInputTypeInfo),
      outputs: this.side(session, api.sessionGetOutputCount, api.sessionGetOutputName, api.sessionGetOutputTypeInfo),
    };
  }

  private side(
    session: Pointer,
    count: OrtApi['sessionGetInputCount'],
    name: OrtApi['sessionGetInputName'],
    info: OrtApi['sessionGetInputTypeInfo'],
  ): Record<string, TensorSpec> {
    const { api } = this;
    const allocator = this.read((o) => api.getAllocator(o));
    const total = Number(this.read((o) => count(session, o)));
    const specs: Record<string, TensorSpec> = {};
    for (let i = 0; i < total; i++) {
      const text = this.read((o) => name(session, i, allocator, o));
      const key = koffi.decode(text, 'char', -1) as string;
      api.allocatorFree(allocator, text);
      const typeInfo = this.take((o) => info(session, i, o));
      try {
        const tensorInfo = this.read((o) => api.castTypeInfoToTensorInfo(typeInfo, o));
        specs[key] = this.spec(key, tensorInfo);
      } finally {
        this.give(api.releaseTypeInfo, typeInfo);
      }
    }
    return specs;
  }

  private spec(name: string, info: Pointer): TensorSpec {
    const { api } = this;
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
    this.give(this.api.releaseEnv, this.env, 'env');
  }
}
