/**
 * A device as a `Backend`, for families that write their tables a step at a time: tensors lie in the host's memory, where the device reads and
 * writes them itself, pools on the device. A run waits for its end. Slower than a stack that stays on the device (families/resident-stack.ts), and
 * enough where a step is long.
 *
 * A run of the same tensors in the same shapes is captured when it comes for the second time, and launched as one from then on.
 */
import {
  type Backend,
  checkedShape,
  type ElementType,
  elementCount,
  type Graph,
  type HostArray,
  RuntimeFailure,
  type Tensor,
  type TensorSpec,
} from './backend.js';
import type { BoundRun, Device, DeviceBuffer, DeviceGraph, PinnedArray, Sequence, View } from './device.js';

/** Inputs of more elements are copied to the device first: kernels read a table many times, and over the bus each time. */
const READ_IN_PLACE_MAX = 4096;
/** Shapes of a graph whose runs are kept; the one that was not needed for the longest time goes first. */
const RUNS_MAX = 64;

class HostedTensor implements Tensor {
  dims: readonly number[];
  private copy: DeviceBuffer | null = null;

  constructor(
    private readonly device: Device,
    readonly buffer: DeviceBuffer,
    readonly host: PinnedArray | null,
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
    if (checkedShape(this.dims, dims, this.buffer.capacity)) this.dims = [...dims];
  }

  /** Whether operators read it on the host: of integers of 64 bits there are only counts. */
  get counts(): boolean {
    return this.host !== null && this.type === 'int64';
  }

  get copied(): boolean {
    return this.host !== null && !this.counts && elementCount(this.dims) > READ_IN_PLACE_MAX;
  }

  asInput(): View {
    const { buffer, dims } = this;
    if (this.counts) return { buffer, dims, onHost: true };
    if (!this.copied) return { buffer, dims };
    this.copy ??= this.device.buffer(this.type, buffer.capacity);
    return { buffer: this.copy, dims };
  }

  asOutput(): View {
    return { buffer: this.buffer, dims: this.dims };
  }

  /** Brings a copied input to the device. */
  upload(): void {
    if (this.host !== null && this.copy !== null) this.device.upload(this.host, this.copy, 0, elementCount(this.dims));
  }

  release(): void {
    this.copy?.release();
    this.buffer.release();
  }
}

type Bound = Readonly<Record<string, Tensor>>;

/** A run in one shape. What it is bound to may have been released since: then its key is never asked for again. */
class HostedRun {
  private readonly bound: BoundRun;
  private readonly copied: readonly HostedTensor[];
  private sequence: Sequence | null = null;
  private ran = false;

  constructor(
    private readonly device: Device,
    graph: DeviceGraph,
    inputs: Bound,
    outputs: Bound,
  ) {
    const views = (names: object, tensors: Bound, view: (tensor: HostedTensor) => View) =>
      Object.fromEntries(Object.keys(names).map((name) => [name, view(tensors[name] as HostedTensor)]));
    this.copied = Object.keys(graph.inputs)
      .map((name) => inputs[name] as HostedTensor)
      .filter(({ copied }) => copied);
    this.bound = graph.bind(
      views(graph.inputs, inputs, (tensor) => tensor.asInput()),
      views(graph.outputs, outputs, (tensor) => tensor.asOutput()),
    );
  }

  /** Whether capturing it is worth its time, and possible: the first time the runtime takes its memory and chooses its kernels. */
  get repeats(): boolean {
    return this.ran && this.sequence === null;
  }

  capture(): void {
    const sources = this.copied.flatMap(({ host }) => (host === null ? [] : [host]));
    this.sequence = this.device.capture(() => this.enqueue(), sources);
  }

  private enqueue(): void {
    for (const tensor of this.copied) tensor.upload();
    this.bound.enqueue();
  }

  launch(): void {
    this.ran = true;
    if (this.sequence !== null) this.sequence.launch();
    else this.enqueue();
  }

  release(): void {
    this.sequence?.release();
    this.bound.release();
  }
}

class HostedGraph implements Graph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  /** The one needed last comes last. */
  private readonly runs = new Map<string, HostedRun>();
  private captures = true;
  private readonly numbers = new WeakMap<Tensor, number>();
  private numbered = 0;

  constructor(
    private readonly device: Device,
    private readonly graph: DeviceGraph,
    private readonly warn: (reason: string) => void,
  ) {
    this.inputs = graph.inputs;
    this.outputs = graph.outputs;
  }

  run(inputs: Bound, outputs: Bound): void {
    const key = this.keyOf(inputs, outputs);
    const run = this.runs.get(key) ?? new HostedRun(this.device, this.graph, inputs, outputs);
    this.runs.delete(key);
    this.runs.set(key, run);
    if (this.captures && run.repeats) this.capture(run);
    run.launch();
    this.device.synchronise();
    const [oldest] = this.runs;
    if (this.runs.size <= RUNS_MAX || oldest === undefined) return;
    oldest[1].release();
    this.runs.delete(oldest[0]);
  }

  private capture(run: HostedRun): void {
    try {
      run.capture();
    } catch (error) {
      if (!(error instanceof RuntimeFailure)) throw error;
      // Without the native operators a graph may hold some that can't be captured.
      this.captures = false;
      this.warn(`a graph is not captured, and runs slower: ${error.message}`);
    }
  }

  /** Which tensors are bound, in which shapes, and the counts that a captured run would keep. */
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
        const counts = tensor.counts ? `=${tensor.data.subarray(0, elementCount(tensor.dims)).join()}` : '';
        return `${number}:${tensor.dims.join('x')}${counts}`;
      });
    return [...part(this.inputs, inputs), ...part(this.outputs, outputs)].join(' ');
  }

  release(): void {
    for (const run of this.runs.values()) run.release();
    this.runs.clear();
    this.graph.release();
  }
}

export class HostedBackend implements Backend {
  readonly name = 'ort-cuda';

  constructor(
    private readonly deviceOf: Device,
    readonly threads: number,
    /** Is told why steps run slower than they might. */
    private readonly warn: (reason: string) => void,
  ) {}

  get device(): string {
    return this.deviceOf.device;
  }

  open(file: string): Graph {
    return new HostedGraph(this.deviceOf, this.deviceOf.open(file), this.warn);
  }

  tensor(type: ElementType, capacity: number): Tensor {
    // At least one element: an empty array has no address, and a shape may hold a 0.
    const memory = this.deviceOf.pinned(type, Math.max(1, capacity));
    const { buffer, byteOffset, byteLength } = memory.data;
    new Uint8Array(buffer, byteOffset, byteLength).fill(0);
    return new HostedTensor(this.deviceOf, memory, memory);
  }

  pool(type: ElementType, capacity: number): Tensor {
    const memory = this.deviceOf.buffer(type, capacity);
    this.deviceOf.fill(memory, 0);
    return new HostedTensor(this.deviceOf, memory, null);
  }

  liveHandles(): number {
    return this.deviceOf.liveHandles();
  }

  /** The device belongs to who opened it. */
  release(): void {}
}
