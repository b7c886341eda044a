/**
 * A recurrent stack whose state, rows and halting stay on the device (export/cuda/kernels.h, export/cuda_graphs.py). What the host sends is
 * which lanes begin; what comes back of a step is a count of running rows a lane. Launches are captured for buckets of rows.
 *
 *   slots, one a position:  state [d]  accumulator [d]  halting sum  key [d]  value [d]  depth  remainder     (+ 1 scrap row for padding)
 *   table:                  active rows in front, padding behind; renewed rows in a table of their own
 */
import { RuntimeFailure } from '../runtime/backend.js';
import type { Device, DeviceBuffer, DeviceGraph, PinnedArray, View } from '../runtime/device.js';
import type {
  ResidentLane,
  ResidentLimits,
  ResidentPlan,
  RowRange,
  StepProgress,
} from '../scheduler/resident-scheduler.js';
import { CapturedRuns, keyOf } from './captured-runs.js';
import { bucketFor, renewedBuckets, rowBuckets } from './row-buckets.js';

/** Columns of the row table: slot, cache row, position, step, first key, visible keys, lane, limits. */
export const ROW_FIELDS = 8;
/** Queries of one tile of attention, lanes that a step can tell apart, and what its report holds before a count a lane: kernels.h. */
export const TILE_ROWS = 64;
export const LANES_MAX = 1024;
/** Rows of one entry of the table of lanes that begin, and its columns: start of its ids, row, base, position, count, lane, limits, visible keys. */
const LANE_PIECE = 32;
const PIECE_FIELDS = 8;
const PROGRESS_HEAD = 4;
const PROGRESS = PROGRESS_HEAD + LANES_MAX;

export interface ResidentGraphs {
  readonly begin_lanes: DeviceGraph;
  readonly tile: DeviceGraph;
  readonly step: DeviceGraph;
}

export interface ResidentSizes extends ResidentLimits {
  /** Positions see those before them only. */
  readonly causal: boolean;
}

export class ResidentStack {
  readonly width: number;
  readonly slots: number;
  readonly accumulator: DeviceBuffer;
  readonly depths: DeviceBuffer;
  readonly remainders: DeviceBuffer;
  /** Rows computed as padding since the last call of `takePadded`. */
  private padded = 0;
  private readonly buckets: readonly number[];
  /** By bucket of active rows. */
  private readonly renewedBuckets = new Map<number, readonly number[]>();
  private readonly buffers: Readonly<Record<string, DeviceBuffer>>;
  /** Lanes that begin: pieces of them, in use up to `piecesUsed` and padding behind. */
  private readonly pieces: PinnedArray<Int32Array>;
  private readonly pieceThresholds: PinnedArray<Float32Array>;
  private piecesUsed = 0;
  private readonly beginIds: PinnedArray<Int32Array>;
  /** Rows of padding. */
  private readonly blank: PinnedArray<Int32Array>;
  private readonly progress: PinnedArray<Int32Array>;
  /** By bucket of rows; steps by that of active and of renewed rows. */
  private readonly begins: CapturedRuns<number>;
  private readonly tiles: CapturedRuns<number>;
  private readonly steps: CapturedRuns<number>;

  constructor(
    private readonly device: Device,
    private readonly graphs: ResidentGraphs,
    private readonly sizes: ResidentSizes,
  ) {
    const { rowsMax, slotsMax, stepsMax, lanesMax } = sizes;
    if (lanesMax > LANES_MAX)
      throw new RangeError(`${lanesMax} lanes exceed the ${LANES_MAX} that a step can tell apart`);
    const d = graphs.step.inputs.state?.dims[1];
    if (typeof d !== 'number') throw new RuntimeFailure('open', 'the step graph has no fixed width');
    this.width = d;
    this.slots = slotsMax + 1;
    this.buckets = rowBuckets(rowsMax);
    const { slots } = this;
    this.accumulator = device.buffer('float32', slots * d);
    this.depths = device.buffer('int32', slots);
    this.remainders = device.buffer('float32', slots);
    this.buffers = {
      state: device.buffer('float32', slots * d),
      halting: device.buffer('float32', slots),
      keys: device.buffer('float16', slots * d),
      values: device.buffer('float16', slots * d),
      active: device.buffer('int32', rowsMax * ROW_FIELDS),
      threshold: device.buffer('float32', rowsMax),
      renewed: device.buffer('int32', rowsMax * ROW_FIELDS),
      tiles: device.buffer('int32', 2 * tilesOf(rowsMax, lanesMax)),
      keyIndex: device.buffer('int32', slots),
      progress: device.buffer('int32', PROGRESS),
    };
    const pieces = piecesOf(rowsMax, lanesMax);
    this.pieces = device.int32(pieces * PIECE_FIELDS);
    this.pieceThresholds = device.float32(pieces);
    this.beginIds = device.int32(rowsMax);
    this.blank = device.int32(rowsMax * ROW_FIELDS);
    this.progress = device.int32(PROGRESS * stepsMax);
    this.begins = new CapturedRuns(device);
    this.tiles = new CapturedRuns(device);
    this.steps = new CapturedRuns(device);
    this.pieces.data.fill(0);
    this.beginIds.data.fill(0);
    this.blank.data.fill(-1);
    this.capture();
  }

  /** Pools hold numbers from the start, tables hold padding, and position i's key is row i. */
  private clear(): void {
    const { device, buffers } = this;
    for (const buffer of [this.accumulator, this.depths, this.remainders, ...Object.values(buffers)])
      device.fill(buffer, 0);
    for (const name of ['active', 'renewed']) device.fill(this.buffer(name), 0xff);
    const identity = device.int32(this.slots);
    for (let i = 0; i < this.slots; i++) identity.data[i] = i;
    device.upload(identity, this.buffer('keyIndex'), 0, this.slots);
    device.synchronise();
    identity.release();
  }

  private buffer(name: string): DeviceBuffer {
    return this.buffers[name] as DeviceBuffer;
  }

  private view(name: string, ...dims: number[]): View {
    return { buffer: this.buffer(name), dims };
  }

  /** Captures every launch that a plan may ask for: a second or two, before the server is ready. */
  private capture(): void {
    this.clear();
    for (const rows of this.buckets) {
      this.captureBegin(rows);
      this.captureTile(rows);
      const renewed = renewedBuckets(rows, this.sizes.rowsMax);
      this.renewedBuckets.set(rows, renewed);
      for (const count of renewed) this.captureStep(rows, count);
    }
    this.clear();
  }

  private captureBegin(rows: number): void {
    const { slots, width: d, sizes } = this;
    const state = this.view('state', slots, d);
    const accumulator = { buffer: this.accumulator, dims: [slots, d] };
    const halting = this.view('halting', slots, 1);
    const active = this.view('active', sizes.rowsMax, ROW_FIELDS);
    const threshold = this.view('threshold', sizes.rowsMax, 1);
    const pieces = piecesOf(rows, sizes.lanesMax);
    this.begins.captureRun(
      rows,
      this.graphs.begin_lanes.bind(
        {
          ...{ state, accumulator, halting, active, threshold },
          pieces: { buffer: this.pieces, dims: [pieces, PIECE_FIELDS] },
          thresholds: { buffer: this.pieceThresholds, dims: [pieces] },
          ids: { buffer: this.beginIds, dims: [rows] },
        },
        {
          ...{ state_out: state, accumulator_out: accumulator, halting_out: halting },
          active_out: active,
          threshold_out: threshold,
        },
      ),
    );
  }

  private tileTable(): View {
    return this.view('tiles', tilesOf(this.sizes.rowsMax, this.sizes.lanesMax), 2);
  }

  private captureTile(rows: number): void {
    this.tiles.captureRun(
      rows,
      this.graphs.tile.bind(
        { active: this.view('active', rows, ROW_FIELDS), tile_table: this.tileTable() },
        { tiles_out: this.tileTable(), progress: { buffer: this.progress, dims: [PROGRESS] } },
      ),
    );
  }

  private captureStep(rows: number, renewed: number): void {
    const { slots, width: d, sizes } = this;
    const state = this.view('state', slots, d);
    const accumulator = { buffer: this.accumulator, dims: [slots, d] };
    const halting = this.view('halting', slots, 1);
    const keys = this.view('keys', slots, d);
    const values = this.view('values', slots, d);
    const active = this.view('active', rows, ROW_FIELDS);
    const threshold = this.view('threshold', rows, 1);
    const table = this.view('renewed', sizes.rowsMax, ROW_FIELDS);
    const depths = { buffer: this.depths, dims: [slots] };
    const remainders = { buffer: this.remainders, dims: [slots] };
    this.steps.captureRun(
      keyOf(rows, renewed),
      this.graphs.step.bind(
        {
          ...{ state, accumulator, halting, keys, values, active, threshold, depths, remainders },
          renewed: this.view('renewed', renewed, ROW_FIELDS),
          tiles: this.view('tiles', tilesOf(rows, sizes.lanesMax), 2),
          key_index: this.view('keyIndex', slots),
          renewed_table: table,
          tile_table: this.tileTable(),
        },
        {
          ...{
            state_out: state,
            accumulator_out: accumulator,
            halting_out: halting,
            keys_out: keys,
            values_out: values,
          },
          active_out: active,
          threshold_out: threshold,
          renewed_out: table,
          tiles_out: this.tileTable(),
          depths_out: depths,
          remainders_out: remainders,
          progress: { buffer: this.progress, dims: [PROGRESS] },
        },
      ),
    );
  }

  /** Enqueues what a plan begins and its steps; `fillIds` writes the token ids of a lane's positions. */
  enqueue(plan: ResidentPlan, fillIds: (lane: ResidentLane, ids: Int32Array, from: number) => void): void {
    const rows = bucketFor(this.buckets, plan.activeRows);
    if (plan.begin.length > 0) {
      this.enqueueBegin(plan, fillIds);
      this.tiles.launch(rows);
    }
    if (plan.steps === 0) return;
    // After the first step of several, any running row may have to be renewed.
    const renewedRows = plan.steps > 1 ? Math.max(plan.renewedRows, plan.activeRows) : plan.renewedRows;
    const renewed = bucketFor(this.renewedBuckets.get(rows) as readonly number[], renewedRows);
    for (let i = 1; i <= plan.steps; i++) {
      this.steps.launch(keyOf(rows, renewed));
      // Each step reports in the same place; what comes before the last step's report is kept behind it.
      if (i < plan.steps) this.keepProgress(i);
    }
  }

  /** By way of the device: a copy within the host's memory would wait for all that is enqueued. */
  private keepProgress(step: number): void {
    const kept = this.buffer('progress');
    this.device.upload(this.progress, kept, 0, PROGRESS);
    this.device.download(kept, this.progress, step * PROGRESS, PROGRESS);
  }

  private enqueueBegin(
    { begin, rowsBefore, activeRows }: ResidentPlan,
    fillIds: (lane: ResidentLane, ids: Int32Array, from: number) => void,
  ): void {
    const { data: table } = this.pieces;
    let start = 0;
    let piece = 0;
    for (const lane of begin) {
      const { base, length, id } = lane;
      const { maxSteps, minSteps, threshold } = lane.request.budget;
      fillIds(lane, this.beginIds.data, start);
      for (let position = 0; position < length; position += LANE_PIECE, piece++) {
        const count = Math.min(LANE_PIECE, length - position);
        const at = piece * PIECE_FIELDS;
        table[at] = start;
        table[at + 1] = rowsBefore + start;
        table[at + 2] = base;
        table[at + 3] = position;
        table[at + 4] = count;
        table[at + 5] = id;
        table[at + 6] = maxSteps * 256 + minSteps;
        // 0: those up to itself.
        table[at + 7] = this.sizes.causal ? 0 : length;
        this.pieceThresholds.data[piece] = threshold;
        start += count;
      }
    }
    if (piece < this.piecesUsed) table.fill(0, piece * PIECE_FIELDS, this.piecesUsed * PIECE_FIELDS);
    this.piecesUsed = piece;
    this.begins.launch(bucketFor(this.buckets, activeRows - rowsBefore));
  }

  /** The progress of each step of the last launch, which the device has passed. Valid until the next. */
  progressOf(plan: ResidentPlan): StepProgress[] {
    // Each step of a launch computes the rows of its bucket, however few still run.
    let active = plan.activeRows;
    const rows = bucketFor(this.buckets, active);
    return Array.from({ length: plan.steps }, (_, i) => {
      this.padded += rows - active;
      const at = ((i + 1) % plan.steps) * PROGRESS;
      const step = this.progress.data.subarray(at, at + PROGRESS);
      active = step[0] as number;
      return {
        activeRows: active,
        renewedRows: step[1] as number,
        rowsOfLane: step.subarray(PROGRESS_HEAD),
      };
    });
  }

  /** Makes padding of rows of the table; no launch is under way. */
  drop(ranges: readonly RowRange[]): void {
    if (ranges.length === 0) return;
    for (const { first, count } of ranges)
      this.device.upload(this.blank, this.buffer('active'), first * ROW_FIELDS, count * ROW_FIELDS);
    this.device.synchronise();
  }

  takePadded(): number {
    const { padded } = this;
    this.padded = 0;
    return padded;
  }

  release(): void {
    for (const runs of [this.begins, this.tiles, this.steps]) runs.release();
    const pinned = [this.pieces, this.pieceThresholds, this.beginIds, this.blank, this.progress];
    for (const memory of [...pinned, this.accumulator, this.depths, this.remainders, ...Object.values(this.buffers)])
      memory.release();
  }
}

/** Pieces that `rows` rows of at most `lanes` lanes can need. */
function piecesOf(rows: number, lanes: number): number {
  return Math.min(rows, Math.ceil(rows / LANE_PIECE) + lanes);
}

/** Tiles that `rows` rows of at most `lanes` lanes can need. */
function tilesOf(rows: number, lanes: number): number {
  return Math.min(rows, Math.ceil(rows / TILE_ROWS) + lanes);
}
