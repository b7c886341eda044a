/**
 * The engine's thread over a runtime that fails when told to: what no test can make ONNX Runtime do. Only tests start it (`Worker` with
 * `{ setup, fault }`); nothing under src/ knows of it.
 */
import { parentPort, threadId, workerData } from 'node:worker_threads';
import koffi from 'koffi';
import { openBackend, runWorker, type WorkerSetup } from '../../src/engine/worker.js';
import type { Backend, Graph, Tensor } from '../../src/runtime/backend.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';

/** What happens in place of the step, at the `atStep`-th of the thread. */
export interface Fault {
  readonly kind: 'throw' | 'hang' | 'hang-native' | 'nan' | 'slow' | 'memory' | 'none';
  readonly atStep: number;
}

const { setup, fault } = workerData as { setup: WorkerSetup; fault: Fault };
if (fault.kind !== 'none') process.stderr.write(`TEST ONLY: engine thread ${threadId} will fail (${fault.kind})\n`);
if (parentPort === null) throw new Error('runs as a worker thread only');

let steps = 0;

function faultyGraph(graph: Graph): Graph {
  return {
    inputs: graph.inputs,
    outputs: graph.outputs,
    release: () => graph.release(),
    run: (inputs, outputs) => {
      const isStep = outputs.halted !== undefined;
      if (isStep) steps += 1;
      if (isStep && steps === fault.atStep) before();
      const result = graph.run(inputs, outputs);
      if (isStep && steps >= fault.atStep && fault.kind === 'nan') spoil(outputs);
      return result;
    },
  };
}

function before(): void {
  switch (fault.kind) {
    case 'throw':
      throw new RuntimeFailure('step', 'injected failure');
    case 'hang':
      for (;;) Math.random();
    case 'hang-native':
      koffi.load('libc.so.6').func('unsigned int sleep(unsigned int)')(3600);
      break;
    case 'slow':
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
      break;
    case 'memory': {
      const hoard: number[][] = [];
      for (;;) hoard.push(new Array<number>(100_000).fill(hoard.length));
    }
    case 'nan':
    case 'none':
      break;
    default:
      fault.kind satisfies never;
  }
}

function spoil({ accumulator_out: accumulator }: Readonly<Record<string, Tensor>>): void {
  if (accumulator?.data instanceof Float32Array) accumulator.data.fill(Number.NaN);
}

await runWorker(setup, async (options): Promise<Backend> => {
  const backend = await openBackend(options);
  return {
    name: backend.name,
    device: backend.device,
    threads: backend.threads,
    open: async (file) => faultyGraph(await backend.open(file)),
    tensor: (type, capacity) => backend.tensor(type, capacity),
    liveHandles: () => backend.liveHandles(),
    release: () => backend.release(),
  };
});
