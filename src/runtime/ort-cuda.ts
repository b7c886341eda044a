/**
 * ONNX Runtime's CUDA provider behind `device.ts`: sessions run on a stream of ours without waiting at the end, every tensor is memory that we
 * allocate once, and what repeats is captured in a CUDA graph. The native operators of export/cuda are registered where their library is found.
 *
 * Capturing happens here and not by ONNX Runtime's own option: one graph then holds copies and several runs, and a launch costs no pass through
 * the session. A session has run once with the same shapes before, so that its arena allocates nothing while it is captured.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import koffi from 'koffi';
import {
  type ElementType,
  elementCount,
  type HostArray,
  hostArray,
  RuntimeFailure,
  type TensorSpec,
} from './backend.js';
import { type CudaApi, cudaApi, cudaDevices } from './cuda-api.js';
import type {
  BoundRun,
  Device,
  DeviceBuffer,
  DeviceGraph,
  DeviceMemory,
  Marker,
  PinnedArray,
  Sequence,
  View,
} from './device.js';
import { ortLibraryFile, type Pointer } from './ort-api.js';
import { OrtRuntime, type OrtThreads, TYPE_CODES } from './ort-runtime.js';

const DEVICE_ALLOCATOR = 0;
const MEMORY_DEFAULT = 0;
const MEMORY_CPU_OUTPUT = -1;
/** CUDA sees from the addresses where memory lies. */
const COPY_DEFAULT = 4;
/** A stream that does not wait for the default one. */
const STREAM_NON_BLOCKING = 1;
/** While this thread captures, others may still allocate. */
const CAPTURE_RELAXED = 2;

/** Kinds of a captured graph's nodes; where cudaMemcpy3DParms has its source, behind an array and a position; kinds of memory. */
const NODE_COPY = 1;
const NODE_HOST = 3;
const COPY_SOURCE_WORD = 4;
const POINTER_DEVICE = 2;

/** Beside libonnxruntime.so.1, where `npm run gpu:install` puts it. */
export const NATIVE_OPERATORS = 'libponder_adaptive.so';
export const CUDA_PROVIDER = 'libonnxruntime_providers_cuda.so';

export interface OrtCudaOptions extends OrtThreads {
  readonly deviceId: number;
  /** Off: the graphs run on their model-local functions. */
  readonly nativeOperators: boolean;
}

class CudaBuffer implements DeviceBuffer {
  readonly bytesPerElement: number;
  private pointer: Pointer | null;

  constructor(
    private readonly owner: CudaDevice,
    readonly type: ElementType,
    readonly capacity: number,
  ) {
    this.bytesPerElement = hostArray(type, 1).BYTES_PER_ELEMENT;
    this.pointer = owner.handles.take((out) =>
      owner.cuda.cudaMalloc(out, Math.max(16, capacity * this.bytesPerElement)),
    );
  }

  at(element: number): Pointer {
    if (this.pointer === null) throw new Error('a released buffer was used');
    return this.pointer + BigInt(element * this.bytesPerElement);
  }

  release(): void {
    if (this.pointer !== null) this.owner.handles.give(this.owner.cuda.cudaFree, this.pointer);
    this.pointer = null;
  }
}

class CudaPinned<Data extends HostArray> implements PinnedArray<Data> {
  readonly data: Data;
  readonly bytesPerElement: number;
  private readonly pointer: Pointer;
  private released = false;

  constructor(
    private readonly owner: CudaDevice,
    readonly type: ElementType,
    readonly capacity: number,
  ) {
    const like = hostArray(type, 1);
    this.bytesPerElement = like.BYTES_PER_ELEMENT;
    const bytes = Math.max(16, capacity * this.bytesPerElement);
    this.pointer = owner.handles.take((out) => owner.cuda.cudaHostAlloc(out, bytes, 0));
    const make = like.constructor as new (buffer: ArrayBuffer) => Data;
    this.data = new make(koffi.view(this.pointer, bytes));
  }

  at(element: number): Pointer {
    if (this.released) throw new Error('a released array was used');
    return this.pointer + BigInt(element * this.bytesPerElement);
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    this.owner.handles.give(this.owner.cuda.cudaFreeHost, this.pointer);
  }
}

class CudaRun implements BoundRun {
  private readonly values: Pointer[] = [];
  private readonly binding: Pointer;
  private released = false;

  constructor(
    private readonly owner: CudaDevice,
    private readonly session: Pointer,
    graph: DeviceGraph,
    inputs: Readonly<Record<string, View>>,
    outputs: Readonly<Record<string, View>>,
  ) {
    const { handles } = owner;
    const { api } = handles;
    this.binding = handles.take((out) => api.createIoBinding(session, out));
    for (const name in graph.inputs) api.bindInput(this.binding, name, this.value(name, inputs[name]));
    for (const name in graph.outputs) api.bindOutput(this.binding, name, this.value(name, outputs[name]));
  }

  private value(name: string, view: View | undefined): Pointer {
    if (view === undefined) throw new RuntimeFailure('bind', `no buffer is bound to ${name}`);
    const { dims, start = 0, onHost = false } = view;
    const buffer = own(view.buffer);
    const count = elementCount(dims);
    if (start + count > buffer.capacity)
      throw new RangeError(`${name}: ${count} elements from ${start} exceed a buffer of ${buffer.capacity}`);
    const { handles, memoryInfo, hostInfo } = this.owner;
    const shape = BigInt64Array.from(dims, BigInt);
    const value = handles.take((out) =>
      handles.api.createTensorWithData(
        onHost ? hostInfo : memoryInfo,
        buffer.at(start),
        count * buffer.bytesPerElement,
        shape,
        dims.length,
        TYPE_CODES[buffer.type],
        out,
      ),
    );
    this.values.push(value);
    return value;
  }

  enqueue(): void {
    if (this.released) throw new Error('a released run was enqueued');
    this.owner.handles.api.runWithBinding(this.session, this.owner.runOptions, this.binding);
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    const { handles } = this.owner;
    handles.give(handles.api.releaseIoBinding, this.binding);
    for (const value of this.values) handles.give(handles.api.releaseValue, value);
  }
}

class CudaGraph implements DeviceGraph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  /** Held longer than the session: see `release`. */
  private readonly hostMemory: Pointer;
  private released = false;

  constructor(
    private readonly owner: CudaDevice,
    private readonly session: Pointer,
  ) {
    const { handles, pinnedInfo } = owner;
    this.hostMemory = handles.take((out) => handles.api.createAllocator(session, pinnedInfo, out));
    const { inputs, outputs } = handles.specs(session);
    this.inputs = inputs;
    this.outputs = outputs;
  }

  bind(inputs: Readonly<Record<string, View>>, outputs: Readonly<Record<string, View>>): BoundRun {
    if (this.released) throw new Error('a released graph was bound');
    return new CudaRun(this.owner, this.session, this, inputs, outputs);
  }

  release(): void {
    if (this.released) return;
    this.released = true;
    const { handles } = this.owner;
    handles.give(handles.api.releaseSession, this.session);
    // A session with operators on the host gives their memory back in a callback of the stream. Were that the last to hold the memory's owner, it
    // would be destroyed there, where CUDA allows no call, and the process would end.
    this.owner.synchronise();
    handles.give(handles.api.releaseAllocator, this.hostMemory);
  }
}

class CudaDevice implements Device {
  readonly name: string;
  readonly device: string;
  readonly handles: OrtRuntime;
  readonly cuda: CudaApi;
  readonly memoryInfo: Pointer;
  readonly pinnedInfo: Pointer;
  readonly hostInfo: Pointer;
  readonly runOptions: Pointer;
  private readonly stream: Pointer;
  private readonly operators: string | null;
  private second: CudaDevice | null = null;

  /** @param first the device of which this is another stream */
  constructor(
    private readonly options: OrtCudaOptions,
    private readonly first: CudaDevice | null = null,
  ) {
    this.cuda = cudaApi();
    this.name = first?.name ?? nameOf(options.deviceId);
    this.device = `cuda:${options.deviceId}`;
    this.cuda.cudaSetDevice(options.deviceId);
    this.operators = nativeOperators(options);
    this.handles = first?.handles ?? new OrtRuntime(options);
    const { handles, cuda } = this;
    const { api } = handles;
    this.stream = handles.take((out) => cuda.cudaStreamCreateWithFlags(out, STREAM_NON_BLOCKING));
    this.memoryInfo =
      first?.memoryInfo ??
      handles.take((out) => api.createMemoryInfo('Cuda', DEVICE_ALLOCATOR, options.deviceId, MEMORY_DEFAULT, out));
    this.pinnedInfo =
      first?.pinnedInfo ??
      handles.take((out) =>
        api.createMemoryInfo('CudaPinned', DEVICE_ALLOCATOR, options.deviceId, MEMORY_CPU_OUTPUT, out),
      );
    this.hostInfo =
      first?.hostInfo ?? handles.take((out) => api.createCpuMemoryInfo(DEVICE_ALLOCATOR, MEMORY_DEFAULT, out));
    this.runOptions = handles.take((out) => api.createRunOptions(out));
    // The host waits where it needs a result, not at the end of each run.
    api.addRunConfigEntry(this.runOptions, 'disable_synchronize_execution_providers', '1');
  }

  /** One for all that ask, and as long as the device: the native operators keep memory for each stream. */
  beside(): Device {
    if (this.first !== null) throw new Error('there are two streams: the device and what runs beside it');
    this.second ??= new CudaDevice(this.options, this);
    return this.second;
  }

  open(file: string): DeviceGraph {
    const session = this.handles.session(file, (options) => this.addProvider(options));
    try {
      return new CudaGraph(this, session);
    } catch (error) {
      this.handles.give(this.handles.api.releaseSession, session);
      throw error;
    }
  }

  /** Loads the provider and what it is linked to, which the first session would do otherwise. Throws RuntimeFailure naming what is missing. */
  probe(): void {
    const { handles } = this;
    const options = handles.take((out) => handles.api.createSessionOptions(out));
    try {
      this.addProvider(options);
    } finally {
      handles.give(handles.api.releaseSessionOptions, options);
    }
  }

  private addProvider(options: Pointer): void {
    const { handles } = this;
    const { api } = handles;
    if (this.operators !== null) api.registerCustomOps(options, this.operators);
    const provider = handles.take((out) => api.createCudaOptions(out));
    try {
      const settings = {
        device_id: String(this.options.deviceId),
        has_user_compute_stream: '1',
        user_compute_stream: String(this.stream),
        arena_extend_strategy: 'kSameAsRequested',
        // Graphs in float32 are meant so.
        use_tf32: '0',
        // Convolutions would otherwise be tuned at the first run; there are none.
        cudnn_conv_algo_search: 'HEURISTIC',
      };
      api.updateCudaOptions(provider, Object.keys(settings), Object.values(settings), Object.keys(settings).length);
      api.appendCudaProvider(options, provider);
    } finally {
      handles.give(api.releaseCudaOptions, provider);
    }
  }

  buffer(type: ElementType, capacity: number): CudaBuffer {
    return new CudaBuffer(this, type, capacity);
  }

  pinned(type: ElementType, capacity: number): PinnedArray {
    return new CudaPinned(this, type, capacity);
  }

  int32(capacity: number): PinnedArray<Int32Array> {
    return new CudaPinned(this, 'int32', capacity);
  }

  float32(capacity: number): PinnedArray<Float32Array> {
    return new CudaPinned(this, 'float32', capacity);
  }

  fill(buffer: DeviceBuffer, byte: number): void {
    const { bytesPerElement, capacity } = own(buffer);
    this.cuda.cudaMemsetAsync(own(buffer).at(0), byte, capacity * bytesPerElement, this.stream);
  }

  upload(from: PinnedArray, to: DeviceBuffer, toStart: number, count: number): void {
    const buffer = own(to);
    if (toStart + count > to.capacity || count > from.data.length) throw new RangeError('an upload exceeds its buffer');
    const bytes = count * buffer.bytesPerElement;
    this.cuda.cudaMemcpyAsync(buffer.at(toStart), own(from).at(0), bytes, COPY_DEFAULT, this.stream);
  }

  download(from: DeviceBuffer, to: PinnedArray, toStart: number, count: number): void {
    const buffer = own(from);
    if (toStart + count > to.data.length || count > from.capacity) throw new RangeError('a download exceeds its array');
    const bytes = count * buffer.bytesPerElement;
    this.cuda.cudaMemcpyAsync(own(to).at(toStart), buffer.at(0), bytes, COPY_DEFAULT, this.stream);
  }

  capture(enqueue: () => void, sources?: readonly PinnedArray[]): Sequence {
    const { cuda, handles, stream } = this;
    cuda.cudaStreamBeginCapture(stream, CAPTURE_RELAXED);
    const graph = new BigUint64Array(1);
    try {
      enqueue();
    } finally {
      cuda.cudaStreamEndCapture(stream, graph);
    }
    const nodes = new BigUint64Array(1);
    cuda.cudaGraphGetNodes(graph[0] as Pointer, null, nodes);
    // Work that went to another stream ran at once and would be missing from every launch.
    if (nodes[0] === 0n)
      throw new RuntimeFailure('capture', 'the CUDA provider does not run on the stream it was given');
    if (sources !== undefined) {
      const objection = this.objectionTo(graph[0] as Pointer, Number(nodes[0]), sources);
      if (objection !== null) {
        cuda.cudaGraphDestroy(graph[0] as Pointer);
        throw new RuntimeFailure('capture', objection);
      }
    }
    const executable = handles.take((out) => cuda.cudaGraphInstantiate(out, graph[0] as Pointer, 0));
    cuda.cudaGraphDestroy(graph[0] as Pointer);
    return {
      launch: () => cuda.cudaGraphLaunch(executable, stream),
      release: () => handles.give(cuda.cudaGraphExecDestroy, executable),
    };
  }

  /** Why launching a captured graph later would not do what enqueueing it did. Null: nothing was found. */
  private objectionTo(graph: Pointer, count: number, sources: readonly PinnedArray[]): string | null {
    const { cuda } = this;
    const nodes = new BigUint64Array(count);
    cuda.cudaGraphGetNodes(graph, nodes, BigUint64Array.of(BigInt(count)));
    const known = new Set(sources.map((array) => own(array).at(0)));
    const type = new Int32Array(1);
    for (const node of nodes) {
      cuda.cudaGraphNodeGetType(node, type);
      // In a callback the runtime gives memory back, which a second launch would do again.
      if (type[0] === NODE_HOST) return 'the runtime calls back to the host';
      if (type[0] !== NODE_COPY) continue;
      const copy = new BigUint64Array(32);
      cuda.cudaGraphMemcpyNodeGetParams(node, copy);
      const from = copy[COPY_SOURCE_WORD] as Pointer;
      if (known.has(from)) continue;
      const attributes = new Int32Array(64);
      cuda.cudaPointerGetAttributes(attributes, from);
      if (attributes[0] !== POINTER_DEVICE) return "the runtime copies from the host's memory";
    }
    return null;
  }

  marker(): Marker {
    return new CudaMarker(this.cuda, this.handles, this.stream);
  }

  synchronise(): void {
    this.cuda.cudaStreamSynchronize(this.stream);
  }

  memory(): DeviceMemory {
    const sizes = new BigUint64Array(2);
    this.cuda.cudaMemGetInfo(sizes.subarray(0, 1), sizes.subarray(1));
    const [free = 0n, total = 0n] = sizes;
    return { usedBytes: Number(total - free), totalBytes: Number(total) };
  }

  liveHandles(): number {
    return this.handles.liveHandles;
  }

  private releaseStream(): void {
    const { handles, cuda } = this;
    handles.give(handles.api.releaseRunOptions, this.runOptions);
    handles.give(cuda.cudaStreamDestroy, this.stream);
  }

  /** Of the second stream nothing: it ends with the first. */
  release(): void {
    if (this.first !== null) return;
    const { handles } = this;
    this.second?.releaseStream();
    this.releaseStream();
    handles.give(handles.api.releaseMemoryInfo, this.memoryInfo);
    handles.give(handles.api.releaseMemoryInfo, this.pinnedInfo);
    handles.give(handles.api.releaseMemoryInfo, this.hostInfo);
    handles.release();
  }
}

class CudaMarker implements Marker {
  private readonly event: Pointer;
  private readonly milliseconds = new Float32Array(1);

  constructor(
    private readonly cuda: CudaApi,
    private readonly handles: OrtRuntime,
    private readonly stream: Pointer,
  ) {
    this.event = handles.take((out) => cuda.cudaEventCreateWithFlags(out, 0));
  }

  record(): void {
    this.cuda.cudaEventRecord(this.event, this.stream);
  }

  wait(): void {
    this.cuda.cudaEventSynchronize(this.event);
  }

  passed(): boolean {
    return this.cuda.cudaEventQuery(this.event);
  }

  since(earlier: Marker): number {
    if (!(earlier instanceof CudaMarker)) throw new Error('a marker of another device');
    this.cuda.cudaEventElapsedTime(this.milliseconds, earlier.event, this.event);
    return this.milliseconds[0] as number;
  }

  release(): void {
    this.handles.give(this.cuda.cudaEventDestroy, this.event);
  }
}

function own(buffer: DeviceBuffer): CudaBuffer | CudaPinned<HostArray> {
  if (!(buffer instanceof CudaBuffer || buffer instanceof CudaPinned)) throw new Error('a buffer of another device');
  return buffer;
}

function nameOf(deviceId: number): string {
  const devices = cudaDevices();
  const name = devices[deviceId];
  if (name === undefined)
    throw new RuntimeFailure('cuda', `there is no device ${deviceId}: CUDA sees ${devices.length}`);
  return name;
}

/** The library of native operators, null when there is none or none is wanted. */
function nativeOperators({ nativeOperators: wanted }: OrtCudaOptions): string | null {
  const file = path.join(path.dirname(ortLibraryFile()), NATIVE_OPERATORS);
  return wanted && existsSync(file) ? file : null;
}

export function providerInstalled(): boolean {
  return existsSync(path.join(path.dirname(ortLibraryFile()), CUDA_PROVIDER));
}

/** Throws RuntimeFailure with the reason when there is no such device, no provider, or the driver does not fit. */
export function openOrtCuda(options: OrtCudaOptions): Device {
  if (!providerInstalled())
    throw new RuntimeFailure('cuda', `${CUDA_PROVIDER} is not installed: run npm run gpu:install`);
  const device = new CudaDevice(options);
  try {
    device.probe();
  } catch (error) {
    device.release();
    throw error;
  }
  return device;
}
