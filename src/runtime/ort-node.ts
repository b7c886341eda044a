/**
 * onnxruntime-node's public API behind the same interface: the portable fallback, the oracle in tests and the baseline in benchmarks.
 * It has no I/O binding; tensors handed in as fetches are written in place, so pools still stay where they are.
 */
import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
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

// Imported on demand: loading it makes ONNX Runtime's one environment of the process, and ort-capi wants to make that itself.
type Ort = typeof import('onnxruntime-node');

class NodeTensor implements Tensor {
  readonly data: HostArray;
  dims: readonly number[] = [];
  private view: OrtTensor | null;

  constructor(
    private readonly ort: Ort,
    readonly type: ElementType,
    private readonly capacity: number,
    private readonly onRelease: () => void,
  ) {
    this.data = hostArray(type, capacity);
    this.view = this.viewed([capacity]);
  }

  get value(): OrtTensor {
    if (this.view === null) throw new Error('a released tensor was used');
    return this.view;
  }

  reshape(dims: readonly number[]): void {
    if (this.view === null) throw new Error('a released tensor was used');
    if (checkedShape(this.dims, dims, this.capacity)) this.view = this.viewed(dims);
  }

  private viewed(dims: readonly number[]): OrtTensor {
    this.dims = [...dims];
    // A subarray shares the memory; onnxruntime-node insists that the length equals the shape's.
    return new this.ort.Tensor(this.type, this.data.subarray(0, elementCount(dims)) as Float32Array, dims);
  }

  release(): void {
    if (this.view !== null) this.onRelease();
    this.view = null;
  }
}

class NodeGraph implements Graph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  private running: Promise<unknown> | null = null;
  private released = false;

  constructor(
    private readonly session: InferenceSession,
    private readonly onRelease: () => void,
  ) {
    this.inputs = specs(session.inputMetadata);
    this.outputs = specs(session.outputMetadata);
  }

  async run(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): Promise<void> {
    if (this.released) throw new Error('a released graph was run');
    const pick = (names: Readonly<Record<string, TensorSpec>>, from: Readonly<Record<string, Tensor>>) => {
      const values: Record<string, OrtTensor> = {};
      for (const name in names) {
        const tensor = from[name];
        if (!(tensor instanceof NodeTensor)) throw new RuntimeFailure('run', `no tensor is bound to ${name}`);
        values[name] = tensor.value;
      }
      return values;
    };
    try {
      this.running = this.session.run(pick(this.inputs, inputs), pick(this.outputs, outputs));
      await this.running;
    } catch (error) {
      throw error instanceof RuntimeFailure ? error : new RuntimeFailure('run', (error as Error).message);
    } finally {
      this.running = null;
    }
  }

  release(): void {
    // Ending a thread while a run is in flight aborts the whole process, so the owner must have awaited it.
    if (this.running !== null) throw new Error('a graph was released while it ran');
    if (this.released) return;
    this.released = true;
    void this.session.release();
    this.onRelease();
  }
}

function specs(metadata: readonly InferenceSession.ValueMetadata[]): Record<string, TensorSpec> {
  return Object.fromEntries(
    metadata.map((value) => {
      if (!value.isTensor) throw new RuntimeFailure('open', `${value.name} is not a tensor`);
      return [value.name, { type: value.type as ElementType, dims: value.shape }];
    }),
  );
}

/** `threads`: intra-op threads of each session. */
export async function openOrtNode(options: { readonly threads: number }): Promise<Backend> {
  const ort = await import('onnxruntime-node');
  let live = 0;
  const closed = () => {
    live -= 1;
  };
  return {
    name: 'ort-node',
    device: 'cpu',
    threads: options.threads,
    async open(file) {
      try {
        const session = await ort.InferenceSession.create(file, {
          executionProviders: ['cpu'],
          graphOptimizationLevel: 'all',
          intraOpNumThreads: options.threads,
          interOpNumThreads: 1,
          enableMemPattern: false,
          logSeverityLevel: 3,
        });
        live += 1;
        return new NodeGraph(session, closed);
      } catch (error) {
        throw new RuntimeFailure('open', (error as Error).message);
      }
    },
    tensor(type, capacity) {
      live += 1;
      return new NodeTensor(ort, type, capacity, closed);
    },
    liveHandles: () => live,
    release() {},
  };
}
