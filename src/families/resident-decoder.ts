/**
 * The decoder of a translating model on a device, for beams: states, keys, values and halting sums stay there. What the host sends of a step is one array
 * (decode-tables.ts); what comes back is a flag, a remainder and the best next tokens of every row.
 *
 * The best tokens are computed for all rows, not only for those that halt: which ones do is known on the device alone, and asking first would cost
 * a second launch for every token.
 */
import { notANumber } from '../runtime/backend.js';
import type { Device, DeviceBuffer, DeviceGraph, Marker, PinnedArray, View } from '../runtime/device.js';
import type { DecodeAdvancePlan } from '../scheduler/decode-scheduler.js';
import type { AdvanceResult } from '../scheduler/scheduler.js';
import { CapturedRuns, keyOf } from './captured-runs.js';
import { type DecodeLayout, decodeLayout, type FilledTables, fillDecodeTables } from './decode-tables.js';
import { PrefixKeys } from './prefix-keys.js';
import type { ResidentMemory } from './resident-memory.js';
import { ROW_FIELDS } from './resident-stack.js';
import { bucketFor, rowBuckets } from './row-buckets.js';

export interface DecoderGraphs {
  readonly begin: DeviceGraph;
  readonly step: DeviceGraph;
  readonly finish: DeviceGraph;
}

export interface ResidentDecoderSizes {
  /** Hypotheses of one step. */
  readonly rowsMax: number;
  readonly cacheRowsMax: number;
  /** Positions of one hypothesis at most. */
  readonly contextTokens: number;
  readonly maxSteps: number;
  readonly width: number;
}

export interface DecodeLaunch extends AdvanceResult {
  /** [rows, k], best first; of rows that run on they mean nothing. */
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly k: number;
  readonly keys: number;
  /** Milliseconds of the device. */
  readonly deviceMs: number;
}

/** What a decoder on a device does for the engine. */
export interface LaunchingDecoder {
  enqueue(plan: DecodeAdvancePlan): void;
  /** Whether the launch has run. */
  passed(): boolean;
  /** Blocks until the launch has run. Valid until the next `enqueue`. */
  fetch(plan: DecodeAdvancePlan): DecodeLaunch;
  takePadded(): number;
}

/** Best tokens that a launch can be asked for: of beams up to 4, of the widest. Greedy sentences have seats (seated-decoder.ts). */
const TOP_BUCKETS = [8, 16];
const TOP_MAX = 16;

export class ResidentDecoder implements LaunchingDecoder {
  private padded = 0;
  private readonly buckets: readonly number[];
  private readonly otherBuckets = new Map<number, readonly number[]>();
  private readonly layouts = new Map<number, DecodeLayout>();
  private readonly slots: number;
  private readonly prefixKeys: PrefixKeys;
  private readonly cacheRows: number;
  private readonly keysMax: number;
  private readonly buffers: Readonly<Record<string, DeviceBuffer>>;
  private readonly counts: readonly DeviceBuffer[];
  private readonly table: PinnedArray<Int32Array>;
  private readonly thresholds: PinnedArray<Float32Array>;
  private readonly halted: PinnedArray<Int32Array>;
  private readonly haltedFlags: Uint8Array;
  private readonly remainders: PinnedArray<Float32Array>;
  private readonly topIds: PinnedArray<Int32Array>;
  private readonly topLogprobs: PinnedArray<Float32Array>;
  private readonly began: Marker;
  private readonly ended: Marker;
  private readonly steps: CapturedRuns<number>;
  private readonly finishes: CapturedRuns<number>;
  private filled: FilledTables = { count: 0, keys: 0, k: 0 };

  constructor(
    private readonly device: Device,
    private readonly graphs: DecoderGraphs,
    private readonly memory: ResidentMemory,
    private readonly sizes: ResidentDecoderSizes,
  ) {
    const { rowsMax, cacheRowsMax, contextTokens, width: d } = sizes;
    this.buckets = rowBuckets(rowsMax);
    // A position keeps its state until it is renewed, while its child already runs; and a scrap row for padding.
    this.slots = 2 * rowsMax + 1;
    this.cacheRows = cacheRowsMax + 1;
    this.prefixKeys = new PrefixKeys(2 * rowsMax, contextTokens, sizes.maxSteps);
    this.keysMax = rowsMax * contextTokens;
    const numbers = decodeLayout({ rows: rowsMax, others: rowsMax }).keys + this.keysMax;
    this.buffers = {
      state: device.buffer('float32', this.slots * d),
      accumulator: device.buffer('float32', this.slots * d),
      halting: device.buffer('float32', this.slots),
      keys: device.buffer('float16', this.cacheRows * d),
      values: device.buffer('float16', this.cacheRows * d),
      table: device.buffer('int32', numbers),
      halted: device.buffer('bool', rowsMax),
    };
    this.counts = TOP_BUCKETS.map(() => device.buffer('int64', 1));
    this.table = device.int32(numbers);
    this.thresholds = device.float32(rowsMax);
    this.halted = device.int32(rowsMax);
    this.haltedFlags = new Uint8Array(this.halted.data.buffer, this.halted.data.byteOffset, rowsMax);
    this.remainders = device.float32(rowsMax);
    this.topIds = device.int32(rowsMax * TOP_MAX);
    this.topLogprobs = device.float32(rowsMax * TOP_MAX);
    this.began = device.marker();
    this.ended = device.marker();
    this.steps = new CapturedRuns(device);
    this.finishes = new CapturedRuns(device);
    this.clear();
    this.capture();
  }

  /** Pools hold numbers from the start. */
  private clear(): void {
    const { device, table } = this;
    for (const buffer of Object.values(this.buffers)) device.fill(buffer, 0);
    this.counts.forEach((count, i) => {
      // One 64-bit number.
      table.data.set([TOP_BUCKETS[i] as number, 0]);
      device.upload(table, count, 0, 1);
      device.synchronise();
    });
  }

  private buffer(name: string): DeviceBuffer {
    return this.buffers[name] as DeviceBuffer;
  }

  private view(name: string, ...dims: number[]): View {
    return { buffer: this.buffer(name), dims };
  }

  /** Captures every launch that a plan may ask for, before the server is ready. */
  private capture(): void {
    const nothing: DecodeAdvancePlan = { kind: 'advance', begin: [], active: [], renewed: [] };
    for (const rows of this.buckets) {
      const others = otherBuckets(rows);
      this.otherBuckets.set(rows, others);
      for (const count of others) {
        const layout = decodeLayout({ rows, others: count });
        const key = keyOf(rows, count);
        this.layouts.set(key, layout);
        const filled = fillDecodeTables(nothing, layout, this.prefixKeys, this.table.data, this.thresholds.data);
        this.device.upload(this.table, this.buffer('table'), 0, filled.count);
        this.steps.capture(key, this.bindStep(layout));
      }
      TOP_BUCKETS.forEach((k, i) => {
        this.finishes.capture(keyOf(rows, k), this.bindFinish(rows, k, this.counts[i] as DeviceBuffer));
      });
    }
  }

  private bindStep({ rows, others, ...at }: DecodeLayout): () => void {
    const { slots, cacheRows, memory } = this;
    const { width: d } = this.sizes;
    const part = (start: number, ...dims: number[]) => ({ buffer: this.buffer('table'), start, dims });
    const state = this.view('state', slots, d);
    const accumulator = this.view('accumulator', slots, d);
    const halting = this.view('halting', slots, 1);
    const pools = { state, accumulator, halting };
    const poolsOut = { state_out: state, accumulator_out: accumulator, halting_out: halting };
    const keys = this.view('keys', cacheRows, d);
    const values = this.view('values', cacheRows, d);
    const begin =
      others === 0
        ? null
        : this.steps.bind(
            this.graphs.begin,
            { ...pools, rows: part(at.begin, others, ROW_FIELDS), ids: part(at.ids, others) },
            poolsOut,
          );
    const step = this.steps.bind(
      this.graphs.step,
      {
        ...{ ...pools, keys, values },
        active: part(0, rows, ROW_FIELDS),
        renewed: part(at.renewed, others, ROW_FIELDS),
        threshold: { buffer: this.thresholds, dims: [rows, 1] },
        // Its length is bound once: what lies behind the keys of a step is not read.
        key_index: part(at.keys, this.keysMax),
        memory_keys: memory.keys,
        memory_values: memory.values,
        memory_key_index: memory.index,
        seen: part(at.seen, rows, 2),
      },
      {
        ...{ ...poolsOut, keys_out: keys, values_out: values },
        halted: this.view('halted', rows, 1),
        remainder: { buffer: this.remainders, dims: [rows, 1] },
      },
    );
    return () => {
      begin?.enqueue();
      step.enqueue();
      this.device.download(this.buffer('halted'), this.halted, 0, rows);
    };
  }

  /** Bound while `count` holds k: the runtime reads it on the host. */
  private bindFinish(rows: number, k: number, count: DeviceBuffer): () => void {
    const { slots } = decodeLayout({ rows, others: 0 });
    const run = this.finishes.bind(
      this.graphs.finish,
      {
        accumulator: this.view('accumulator', this.slots, this.sizes.width),
        slots: { buffer: this.buffer('table'), start: slots, dims: [rows] },
        k: { buffer: count, dims: [1] },
      },
      {
        top_logprobs: { buffer: this.topLogprobs, dims: [rows, k] },
        top_ids: { buffer: this.topIds, dims: [rows, k] },
      },
    );
    return () => run.enqueue();
  }

  enqueue(plan: DecodeAdvancePlan): void {
    const { active, renewed, begin } = plan;
    const rows = bucketFor(this.buckets, active.length);
    const others = bucketFor(this.otherBuckets.get(rows) as readonly number[], Math.max(renewed.length, begin.length));
    const key = keyOf(rows, others);
    this.filled = fillDecodeTables(
      plan,
      this.layouts.get(key) as DecodeLayout,
      this.prefixKeys,
      this.table.data,
      this.thresholds.data,
    );
    this.began.record();
    this.device.upload(this.table, this.buffer('table'), 0, this.filled.count);
    this.steps.launch(key);
    this.filled = { ...this.filled, k: bucketFor(TOP_BUCKETS, this.filled.k) };
    this.finishes.launch(keyOf(rows, this.filled.k));
    this.ended.record();
    this.padded += rows - active.length;
  }

  passed(): boolean {
    return this.ended.passed();
  }

  fetch({ active }: DecodeAdvancePlan): DecodeLaunch {
    this.ended.wait();
    const { k, keys } = this.filled;
    return {
      halted: this.haltedFlags,
      remainders: this.remainders.data,
      topIds: this.topIds.data,
      topLogprobs: this.checked(active.length, k),
      k,
      keys,
      deviceMs: this.ended.since(this.began),
    };
  }

  /** Of rows that run on too: a sum that is not a number never becomes one again. */
  private checked(rows: number, k: number): Float32Array {
    const { data } = this.topLogprobs;
    let sum = 0;
    for (let i = 0; i < rows * k; i++) sum += data[i] as number;
    if (Number.isNaN(sum)) throw notANumber('decode');
    return data;
  }

  takePadded(): number {
    const { padded } = this;
    this.padded = 0;
    return padded;
  }

  release(): void {
    this.steps.release();
    this.finishes.release();
    const pinned = [this.table, this.thresholds, this.halted, this.remainders, this.topIds, this.topLogprobs];
    const objects = [...pinned, ...Object.values(this.buffers), ...this.counts, this.began, this.ended];
    for (const object of objects) object.release();
  }
}

/** Buckets of rows that begin or are renewed beside `rows` hypotheses: never more than there are. */
function otherBuckets(rows: number): number[] {
  return [0, Math.ceil(rows / 8), Math.ceil(rows / 4), Math.ceil(rows / 2), rows];
}
