/**
 * A device that remembers what was taken from it until it is told to `keep` it: a model that does not fit leaves nothing behind, however far its
 * opening had come. Everything is passed on unchanged, so that objects of the two mix.
 */
import type { ElementType } from './backend.js';
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

interface Releasable {
  release(): void;
}

export class DeviceScope implements Device {
  readonly name: string;
  readonly device: string;
  private released = false;

  /** @param held what was taken, of all streams of the device; null once it is kept */
  constructor(
    private readonly inner: Device,
    private readonly held: { taken: Releasable[] | null } = { taken: [] },
  ) {
    this.name = inner.name;
    this.device = inner.device;
  }

  private track<T extends Releasable>(object: T): T {
    this.held.taken?.push(object);
    return object;
  }

  /** From now on whoever took something releases it. */
  keep(): void {
    this.held.taken = null;
  }

  /** Releases what was taken, the latest first. A device that has failed may refuse: the rest is released all the same. */
  abandon(): void {
    for (const object of (this.held.taken ?? []).reverse()) {
      try {
        object.release();
      } catch {
        // The failure that made us abandon it is the one to be told.
      }
    }
    this.held.taken = null;
  }

  open(file: string): DeviceGraph {
    const graph = this.inner.open(file);
    const bind = (inputs: Readonly<Record<string, View>>, outputs: Readonly<Record<string, View>>): BoundRun =>
      this.track(graph.bind(inputs, outputs));
    let open = true;
    // Whoever opened several may have closed them by the time that this is abandoned.
    const release = () => {
      if (open) graph.release();
      open = false;
    };
    return this.track({ inputs: graph.inputs, outputs: graph.outputs, bind, release });
  }

  buffer(type: ElementType, capacity: number): DeviceBuffer {
    return this.track(this.inner.buffer(type, capacity));
  }

  pinned(type: ElementType, capacity: number): PinnedArray {
    return this.track(this.inner.pinned(type, capacity));
  }

  int32(capacity: number): PinnedArray<Int32Array> {
    return this.track(this.inner.int32(capacity));
  }

  float32(capacity: number): PinnedArray<Float32Array> {
    return this.track(this.inner.float32(capacity));
  }

  capture(enqueue: () => void, sources?: readonly PinnedArray[]): Sequence {
    return this.track(this.inner.capture(enqueue, sources));
  }

  marker(): Marker {
    return this.track(this.inner.marker());
  }

  fill(buffer: DeviceBuffer, byte: number): void {
    this.inner.fill(buffer, byte);
  }

  upload(from: PinnedArray, to: DeviceBuffer, toStart: number, count: number): void {
    this.inner.upload(from, to, toStart, count);
  }

  download(from: DeviceBuffer, to: PinnedArray, toStart: number, count: number): void {
    this.inner.download(from, to, toStart, count);
  }

  synchronise(): void {
    this.inner.synchronise();
  }

  memory(): DeviceMemory {
    return this.inner.memory();
  }

  beside(): Device {
    return this.track(new DeviceScope(this.inner.beside(), this.held));
  }

  liveHandles(): number {
    return this.inner.liveHandles();
  }

  release(): void {
    if (!this.released) this.inner.release();
    this.released = true;
  }
}
