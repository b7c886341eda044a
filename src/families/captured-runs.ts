/** The launches of a family on a device, by key: what repeats is captured once, before the server is ready, and launched as one. */
import type { BoundRun, Device, DeviceGraph, Sequence, View } from '../runtime/device.js';

const KEYS = 65_536;

/** Two buckets as one number, for which a map needs no text. */
export function keyOf(rows: number, other: number): number {
  if (other >= KEYS) throw new RangeError(`a bucket of ${other} is not below ${KEYS}`);
  return rows * KEYS + other;
}

export class CapturedRuns<Key extends string | number> {
  private readonly sequences = new Map<Key, Sequence>();
  private readonly runs: BoundRun[] = [];

  constructor(private readonly device: Device) {}

  /** A run for something that is captured; it is released with the rest. */
  bind(graph: DeviceGraph, inputs: Readonly<Record<string, View>>, outputs: Readonly<Record<string, View>>): BoundRun {
    return this.held(graph.bind(inputs, outputs));
  }

  private held(run: BoundRun): BoundRun {
    this.runs.push(run);
    return run;
  }

  capture(key: Key, enqueue: () => void): void {
    // Once for real, on padding: the runtime takes its memory and chooses its kernels, which it can't while a run is captured.
    enqueue();
    this.device.synchronise();
    this.sequences.set(key, this.device.capture(enqueue));
  }

  captureRun(key: Key, run: BoundRun): void {
    this.held(run);
    this.capture(key, () => run.enqueue());
  }

  launch(key: Key): void {
    const sequence = this.sequences.get(key);
    // Going on would answer with the results of an earlier launch.
    if (sequence === undefined) throw new Error(`no launch was captured for ${key}`);
    sequence.launch();
  }

  release(): void {
    for (const sequence of this.sequences.values()) sequence.release();
    for (const run of this.runs) run.release();
  }
}
