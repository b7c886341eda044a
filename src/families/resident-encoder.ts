/** The encoder of a translating model on a device: what `translation.ts` does on the CPU, with rows that stay there. */
import type { Device, DeviceGraph, Marker, PinnedArray } from '../runtime/device.js';
import type { ResidentLane, ResidentPlan, RowRange } from '../scheduler/resident-scheduler.js';
import { CapturedRuns } from './captured-runs.js';
import type { Launch, Launching } from './launching.js';
import type { ResidentMemory } from './resident-memory.js';
import { type ResidentGraphs, type ResidentSizes, ResidentStack, ROW_FIELDS } from './resident-stack.js';
import { bucketFor } from './row-buckets.js';

export interface EncoderGraphs extends ResidentGraphs {
  readonly finish: DeviceGraph;
}

/** What an encoded sentence leaves beside its memory, which stands in the lane's memory rows. */
export interface EncodedLane {
  readonly depths: Uint8Array;
  readonly remainders: Float32Array;
}

export class ResidentEncoder implements Launching<EncodedLane> {
  private readonly stack: ResidentStack;
  private readonly buckets: readonly number[];
  private readonly slots: PinnedArray<Int32Array>;
  private readonly rows: PinnedArray<Int32Array>;
  private readonly depth: PinnedArray<Int32Array>;
  private readonly remainder: PinnedArray<Float32Array>;
  private readonly began: Marker;
  private readonly ended: Marker;
  /** By bucket of positions. */
  private readonly finishes: CapturedRuns<number>;

  constructor(
    device: Device,
    private readonly graphs: EncoderGraphs,
    private readonly memory: ResidentMemory,
    sizes: Omit<ResidentSizes, 'causal'>,
  ) {
    this.stack = new ResidentStack(device, graphs, { ...sizes, causal: false });
    const rows = sizes.finishRowsMax;
    this.buckets = [64, 256, 1024].filter((bucket) => bucket < rows).concat(rows);
    this.slots = device.int32(rows);
    this.rows = device.int32(rows * ROW_FIELDS);
    this.depth = device.int32(rows);
    this.remainder = device.float32(rows);
    this.began = device.marker();
    this.ended = device.marker();
    this.finishes = new CapturedRuns(device);
    this.slots.data.fill(-1);
    this.rows.data.fill(-1);
    for (const bucket of this.buckets) this.captureFinish(bucket);
  }

  private captureFinish(rows: number): void {
    const { stack, memory } = this;
    const run = this.graphs.finish.bind(
      {
        accumulator: { buffer: stack.accumulator, dims: [stack.slots, stack.width] },
        slots: { buffer: this.slots, dims: [rows] },
        rows: { buffer: this.rows, dims: [rows, ROW_FIELDS] },
        memory_keys: memory.keys,
        memory_values: memory.values,
        depths: { buffer: stack.depths, dims: [stack.slots] },
        remainders: { buffer: stack.remainders, dims: [stack.slots] },
      },
      {
        memory_keys_out: memory.keys,
        memory_values_out: memory.values,
        depth: { buffer: this.depth, dims: [rows] },
        remainder: { buffer: this.remainder, dims: [rows] },
      },
    );
    this.finishes.captureRun(rows, run);
  }

  enqueue(plan: ResidentPlan): void {
    this.began.record();
    if (plan.finish.length > 0) this.enqueueFinish(plan.finish);
    this.stack.enqueue(plan, ({ request }, ids, from) => ids.set(request.ids, from));
    this.ended.record();
  }

  private enqueueFinish(lanes: readonly ResidentLane[]): void {
    const { data: slots } = this.slots;
    const { data: rows } = this.rows;
    let row = 0;
    for (const { base, length, memoryRows } of lanes) {
      for (let position = 0; position < length; position++, row++) {
        slots[row] = base + position;
        rows[row * ROW_FIELDS] = base + position;
        rows[row * ROW_FIELDS + 1] = memoryRows[position] as number;
      }
    }
    const bucket = bucketFor(this.buckets, row);
    slots.fill(-1, row, bucket);
    rows.fill(-1, row * ROW_FIELDS, bucket * ROW_FIELDS);
    this.finishes.launch(bucket);
  }

  passed(): boolean {
    return this.ended.passed();
  }

  fetch(plan: ResidentPlan): Launch<EncodedLane> {
    this.ended.wait();
    let row = 0;
    const finished = plan.finish.map(({ length }) => {
      const from = row;
      row += length;
      return {
        depths: Uint8Array.from(this.depth.data.subarray(from, row)),
        remainders: this.remainder.data.slice(from, row),
      };
    });
    return { finished, progress: this.stack.progressOf(plan), deviceMs: this.ended.since(this.began) };
  }

  drop(ranges: readonly RowRange[]): void {
    this.stack.drop(ranges);
  }

  takePadded(): number {
    return this.stack.takePadded();
  }

  release(): void {
    this.finishes.release();
    this.stack.release();
    for (const object of [this.slots, this.rows, this.depth, this.remainder, this.began, this.ended]) object.release();
  }
}
