/**
 * A device whose memory the host does not see: work is enqueued on a stream, in order, and the host waits only where it asks for a
 * result. `ort-cuda.ts` implements it; tests emulate it on the CPU.
 *
 * Every object has one owner, who calls `release` once.
 */
import type { ElementType, HostArray, TensorSpec } from './backend.js';

/** Memory of the device. */
export interface DeviceBuffer {
  readonly type: ElementType;
  /** In elements. */
  readonly capacity: number;
  release(): void;
}

/**
 * Memory of the host that the device reads and writes as its own. Right for what is read or written once, such as the tables of a launch and
 * its results: no copy has to be waited for. What the host writes must be there when the device comes to it, and stay until it has passed.
 */
export interface PinnedArray<Data extends HostArray = HostArray> extends DeviceBuffer {
  readonly data: Data;
}

/** A part of a buffer under a shape; `start` in elements. */
export interface View {
  readonly buffer: DeviceBuffer;
  readonly dims: readonly number[];
  readonly start?: number;
  /** Of an array of the host: operators read it there, while they are enqueued. What is captured keeps what they read. */
  readonly onHost?: boolean;
}

/** A graph with its inputs and outputs bound: shapes and addresses are fixed, so that it can be captured. */
export interface BoundRun {
  enqueue(): void;
  release(): void;
}

export interface DeviceGraph {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
  /** A buffer bound as input and output is changed in place. Throws RuntimeFailure naming what is missing. */
  bind(inputs: Readonly<Record<string, View>>, outputs: Readonly<Record<string, View>>): BoundRun;
  release(): void;
}

/** Work that was captured once and is launched as one. */
export interface Sequence {
  launch(): void;
  release(): void;
}

/** A point in the stream. */
export interface Marker {
  /** Everything enqueued so far comes before it. */
  record(): void;
  /** Blocks until the device has passed it. */
  wait(): void;
  /** Whether it has, without waiting. */
  passed(): boolean;
  /** Milliseconds of the device from another recorded marker to this one; both must have been passed. */
  since(earlier: Marker): number;
  release(): void;
}

export interface DeviceMemory {
  readonly usedBytes: number;
  readonly totalBytes: number;
}

export interface Device {
  readonly name: string;
  /** As in `--device`: cuda:0. */
  readonly device: string;
  open(file: string): DeviceGraph;
  buffer(type: ElementType, capacity: number): DeviceBuffer;
  pinned(type: ElementType, capacity: number): PinnedArray;
  int32(capacity: number): PinnedArray<Int32Array>;
  float32(capacity: number): PinnedArray<Float32Array>;
  /** Sets every byte of a buffer. */
  fill(buffer: DeviceBuffer, byte: number): void;
  /** Copies `count` elements; the array must not change until the device has passed. */
  upload(from: PinnedArray, to: DeviceBuffer, toStart: number, count: number): void;
  /** From the start of a buffer. */
  download(from: DeviceBuffer, to: PinnedArray, toStart: number, count: number): void;
  /**
   * Captures what `enqueue` enqueues without running it. It has run at least once before.
   *
   * @param sources the only arrays of the host that it may copy from; others may be the runtime's own, which are gone when it is launched. Absent:
   *   not looked at
   * @throws RuntimeFailure when it can't be captured, or copies from elsewhere, or calls back to the host
   */
  capture(enqueue: () => void, sources?: readonly PinnedArray[]): Sequence;
  marker(): Marker;
  /** Blocks until everything has run. Throws RuntimeFailure when something failed. */
  synchronise(): void;
  memory(): DeviceMemory;
  /** The same device by its second stream, whose work runs beside this one's: all who ask share it. They share their memory; it is released first. */
  beside(): Device;
  liveHandles(): number;
  release(): void;
}
