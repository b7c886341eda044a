/**
 * The engine's thread: opens the runtime and the models, then runs the loop. Steps are synchronous calls into native code, so the
 * port is polled between steps (`receiveMessageOnPort`); when idle the thread sleeps in its event loop until a message arrives.
 */
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { monotonicMs } from '../clock.js';
import type { ModelDescription } from '../models/description.js';
import type { Backend } from '../runtime/backend.js';
import { trimFreeMemory } from '../runtime/free-memory.js';
import { openOrtCapi } from '../runtime/ort-capi.js';
import { openOrtNode } from '../runtime/ort-node.js';
import { openAnywhere } from './device-fallback.js';
import { type DeviceSetup, openDevice } from './device-stages.js';
import { EngineLoop } from './loop.js';
import type { ModelSetup, Opened } from './model-stages.js';
import type { FromEngine, ToEngine } from './protocol.js';
import type { Stage } from './stage.js';

export interface WorkerSetup extends ModelSetup {
  readonly backend: 'ort-capi' | 'ort-node';
  readonly threads: number;
  readonly spin: boolean;
  /** Absent: the CPU. */
  readonly device?: DeviceSetup;
  readonly queueWaitMsMax: number;
  readonly models: readonly ModelDescription[];
  /** Memory of a HandleLedger, the same for each worker that follows another. */
  readonly handles: SharedArrayBuffer;
}

export async function openBackend({ backend, threads, spin, handles }: WorkerSetup): Promise<Backend> {
  switch (backend) {
    case 'ort-capi':
      return openOrtCapi({ threads, spin, handles });
    case 'ort-node':
      return openOrtNode({ threads });
    default:
      return backend satisfies never;
  }
}

/** Arrays up to this size are copied: moving an ArrayBuffer to another thread costs more. */
const COPIED_BYTES_MAX = 16_384;

/** @param open tests bring runtimes that fail */
export async function runWorker(setup: WorkerSetup, open: typeof openBackend = openBackend): Promise<void> {
  const port = parentPort;
  if (port === null) throw new Error('runs as a worker thread only');
  // Messages of one turn travel together: each one on its own would wake the main thread, which takes the core from a step.
  let outbox: FromEngine[] = [];
  let moved: ArrayBuffer[] = [];
  const post = (message: FromEngine, transfer: ArrayBuffer[] = []) => {
    outbox.push(message);
    const bytes = transfer.reduce((sum, { byteLength }) => sum + byteLength, 0);
    if (bytes > COPIED_BYTES_MAX) moved.push(...transfer);
  };
  const flush = () => {
    if (outbox.length === 0) return;
    port.postMessage(outbox, moved);
    outbox = [];
    moved = [];
  };
  const backend = await open(setup);
  const { device, reason, fellBack } = openDevice(setup.device);
  if (fellBack) post({ type: 'device-warning', model: null, reason });
  /** By model: what it holds, on whichever device. */
  const opened = new Map<string, readonly Opened[]>();
  const onDevice = new WeakSet<Stage>();
  const openAll = async (model: ModelDescription): Promise<Stage[]> => {
    const warn = (why: string) => post({ type: 'device-warning', model: model.id, reason: why });
    const parts = await openAnywhere(backend, device, model, setup, warn);
    opened.set(model.id, parts);
    trimFreeMemory();
    for (const part of parts) if (part.onDevice) for (const stage of part.stages) onDevice.add(stage);
    return parts.flatMap(({ stages }) => stages);
  };
  const close = (id: string): void => {
    for (const { release } of opened.get(id) ?? []) release();
    opened.delete(id);
    trimFreeMemory();
  };
  const stages: Stage[] = [];
  for (const model of setup.models) {
    try {
      stages.push(...(await openAll(model)));
    } catch (error) {
      post({ type: 'refused', model: model.id, reason: (error as Error).message });
    }
  }
  // Listening keeps the thread alive and wakes it; a message it gets this way is kept for `receive`.
  const inbox: ToEngine[] = [];
  let wake: (() => void) | null = null;
  const take = (messages: ToEngine | readonly ToEngine[]) => inbox.push(...([messages].flat() as ToEngine[]));
  port.on('message', (messages: ToEngine | readonly ToEngine[]) => {
    take(messages);
    wake?.();
  });
  const loop = new EngineLoop({
    stages,
    opener: { open: openAll, close },
    ...(device === null
      ? {}
      : { device: { name: device.device, memory: () => device.memory(), runs: (stage) => onDevice.has(stage) } }),
    queueWaitMsMax: setup.queueWaitMsMax,
    now: monotonicMs,
    receive: () => {
      flush();
      if (inbox.length === 0) take(receiveMessageOnPort(port)?.message ?? []);
      return inbox.shift() ?? null;
    },
    wait: (untilMs) => {
      flush();
      if (inbox.length > 0) return Promise.resolve();
      return new Promise((resolve) => {
        const timer = untilMs === null ? undefined : setTimeout(resolve, Math.max(0, untilMs - monotonicMs()));
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    },
    post,
  });
  post({
    type: 'ready',
    device: device?.device ?? backend.device,
    deviceReason: reason,
    backend: backend.name,
    threads: backend.threads,
  });
  flush();
  // Also after a failure: sessions of a dead worker would stay in the process, 25 MB for each restart.
  try {
    await loop.run();
  } finally {
    flush();
    for (const id of [...opened.keys()]) close(id);
    device?.release();
    await backend.release();
  }
  port.close();
}
