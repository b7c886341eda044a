/** Scoring on a device: what `universal-transformer.ts` does on the CPU, with rows that stay there. One object serves one cohort of lanes. */
import type { ScoreWindowResult } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import { RuntimeFailure } from '../runtime/backend.js';
import type { BoundRun, Device, DeviceBuffer, DeviceGraph, Marker, PinnedArray, Sequence } from '../runtime/device.js';
import type { ResidentLane, ResidentPlan, RowRange, StepProgress } from '../scheduler/resident-scheduler.js';
import { openDeviceGraphs } from './device-graphs.js';
import { type ResidentSizes, ResidentStack } from './resident-stack.js';
import { bucketFor } from './row-buckets.js';

const GRAPHS = ['begin', 'tile', 'step', 'finish', 'finish_top'] as const;
export type ScoringGraphs = Readonly<Record<(typeof GRAPHS)[number], DeviceGraph>>;

/** The logits of so many rows, 32 KiB each at 8192 words, stay in the second-level cache of a GPU. */
const FINISH_CHUNK_ROWS = 1024;
const FINISH_BUCKETS = [64, 256, 512, 1024];
/** Best candidates that a request may ask for: schemas.ts. */
const TOP_MAX = 20;

export interface LaunchResult {
  /** One a lane of the plan's `finish`, in order. */
  readonly finished: readonly ScoreWindowResult[];
  readonly progress: readonly StepProgress[];
  /** Milliseconds of the device. */
  readonly deviceMs: number;
}

/** What a scoring family on a device does for the engine: a launch is enqueued, and its result fetched later. */
export interface LaunchingFamily {
  enqueue(plan: ResidentPlan): void;
  /** Blocks until the launch has run. Valid until the next `enqueue`. */
  fetch(plan: ResidentPlan): LaunchResult;
  drop(ranges: readonly RowRange[]): void;
  takePadded(): number;
}

export function openScoringGraphs(device: Device, model: ModelDescription): ScoringGraphs {
  return openDeviceGraphs(device, model, GRAPHS);
}

export class ResidentScoring implements LaunchingFamily {
  private readonly stack: ResidentStack;
  private readonly results: Readonly<Record<'slots' | 'targets' | 'logprob' | 'depth' | 'remainder', DeviceBuffer>>;
  private readonly top: Readonly<Record<'logprobs' | 'ids' | 'k', DeviceBuffer>>;
  private readonly slots: PinnedArray<Int32Array>;
  private readonly targets: PinnedArray<Int32Array>;
  private readonly logprob: PinnedArray<Float32Array>;
  private readonly depth: PinnedArray<Int32Array>;
  private readonly remainder: PinnedArray<Float32Array>;
  private readonly topLogprobs: PinnedArray<Float32Array>;
  private readonly topIds: PinnedArray<Int32Array>;
  private readonly kWords: PinnedArray<Int32Array>;
  private readonly began: Marker;
  private readonly ended: Marker;
  private readonly runs = new Map<string, BoundRun>();
  private readonly sequences = new Map<string, Sequence>();

  constructor(
    private readonly device: Device,
    private readonly graphs: ScoringGraphs,
    private readonly model: Pick<ModelDescription, 'bosId'>,
    sizes: ResidentSizes,
  ) {
    this.stack = new ResidentStack(device, graphs, sizes);
    // A lane longer than the limit still finishes in one piece.
    const rows = Math.ceil(Math.max(sizes.finishRowsMax, sizes.rowsMax) / FINISH_CHUNK_ROWS) * FINISH_CHUNK_ROWS;
    this.results = {
      slots: device.buffer('int32', rows),
      targets: device.buffer('int32', rows),
      logprob: device.buffer('float32', rows),
      depth: device.buffer('int32', rows),
      remainder: device.buffer('float32', rows),
    };
    this.top = {
      logprobs: device.buffer('float32', FINISH_CHUNK_ROWS * TOP_MAX),
      ids: device.buffer('int32', FINISH_CHUNK_ROWS * TOP_MAX),
      k: device.buffer('int64', 1),
    };
    this.slots = device.int32(rows);
    this.targets = device.int32(rows);
    this.logprob = device.float32(rows);
    this.depth = device.int32(rows);
    this.remainder = device.float32(rows);
    this.topLogprobs = device.float32(rows * TOP_MAX);
    this.topIds = device.int32(rows * TOP_MAX);
    this.kWords = device.int32(2);
    this.began = device.marker();
    this.ended = device.marker();
    for (const bucket of FINISH_BUCKETS) {
      for (let start = 0; start < rows; start += FINISH_CHUNK_ROWS) this.captureFinish(start, bucket);
    }
  }

  enqueue(plan: ResidentPlan): void {
    this.began.record();
    if (plan.finish.length > 0) this.enqueueFinish(plan.finish);
    this.stack.enqueue(plan, ({ request, length }, ids, from) => {
      // Position i predicts ids[i], so it reads the token before: <s>, ids[0], ids[1], ...
      ids[from] = this.model.bosId;
      ids.set(request.ids.subarray(0, length - 1), from + 1);
    });
    this.ended.record();
  }

  private enqueueFinish(lanes: readonly ResidentLane[]): void {
    const { device } = this;
    let rows = 0;
    for (const { base, length, request } of lanes) {
      for (let position = request.scoreFrom; position < length; position++, rows++)
        this.slots.data[rows] = base + position;
      this.targets.data.set(request.ids.subarray(request.scoreFrom), rows - (length - request.scoreFrom));
    }
    const end = Math.floor(rows / FINISH_CHUNK_ROWS) * FINISH_CHUNK_ROWS;
    const rest = rows - end;
    const padded = end + (rest > 0 ? bucketFor(FINISH_BUCKETS, rest) : 0);
    this.slots.data.fill(-1, rows, padded);
    this.targets.data.fill(0, rows, padded);
    device.upload(this.slots, this.results.slots, 0, padded);
    device.upload(this.targets, this.results.targets, 0, padded);
    const k = widestTop(lanes);
    if (k > 0) {
      // One 64-bit number.
      this.kWords.data.set([k, 0]);
      device.upload(this.kWords, this.top.k, 0, 1);
    }
    for (let start = 0; start < padded; start += FINISH_CHUNK_ROWS) {
      const bucket = Math.min(FINISH_CHUNK_ROWS, padded - start);
      if (k === 0) this.sequences.get(`${start} ${bucket}`)?.launch();
      else this.finishTop(start, bucket, k);
    }
    device.download(this.results.logprob, this.logprob, 0, padded);
    device.download(this.results.depth, this.depth, 0, padded);
    device.download(this.results.remainder, this.remainder, 0, padded);
  }

  private bindFinish(graph: DeviceGraph, start: number, rows: number, top: number): BoundRun {
    const { stack } = this;
    const part = (buffer: DeviceBuffer) => ({ buffer, dims: [rows], start });
    const { slots, targets, logprob, depth, remainder } = this.results;
    return graph.bind(
      {
        accumulator: { buffer: stack.accumulator, dims: [stack.slots, stack.width] },
        depths: { buffer: stack.depths, dims: [stack.slots] },
        remainders: { buffer: stack.remainders, dims: [stack.slots] },
        slots: part(slots),
        targets: part(targets),
        k: { buffer: this.top.k, dims: [1] },
      },
      {
        logprob: part(logprob),
        depth: part(depth),
        remainder: part(remainder),
        top_logprobs: { buffer: this.top.logprobs, dims: [rows, top] },
        top_ids: { buffer: this.top.ids, dims: [rows, top] },
      },
    );
  }

  private captureFinish(start: number, rows: number): void {
    const run = this.bindFinish(this.graphs.finish, start, rows, 1);
    this.runs.set(`${start} ${rows}`, run);
    run.enqueue();
    this.device.synchronise();
    this.sequences.set(
      `${start} ${rows}`,
      this.device.capture(() => run.enqueue()),
    );
  }

  /** Not captured: how many candidates are wanted is the request's choice. */
  private finishTop(start: number, rows: number, k: number): void {
    const key = `${start} ${rows} top ${k}`;
    let run = this.runs.get(key);
    if (run === undefined) {
      run = this.bindFinish(this.graphs.finish_top, start, rows, k);
      this.runs.set(key, run);
    }
    run.enqueue();
    this.device.download(this.top.logprobs, this.topLogprobs, start * k, rows * k);
    this.device.download(this.top.ids, this.topIds, start * k, rows * k);
  }

  fetch(plan: ResidentPlan): LaunchResult {
    this.ended.wait();
    const k = widestTop(plan.finish);
    let row = 0;
    const finished = plan.finish.map((lane) => {
      const result = this.read(lane, row, k);
      row += result.logprobs.length;
      return result;
    });
    return { finished, progress: this.stack.progressOf(plan), deviceMs: this.ended.since(this.began) };
  }

  private read({ request, length, positionSteps }: ResidentLane, row: number, k: number): ScoreWindowResult {
    const count = length - request.scoreFrom;
    const logprobs = this.logprob.data.slice(row, row + count);
    if (logprobs.some(Number.isNaN))
      throw new RuntimeFailure('finish', 'the model computed a log-probability that is not a number');
    const wanted = request.topCount;
    const topIds = new Int32Array(count * wanted);
    const topLogprobs = new Float32Array(count * wanted);
    for (let i = 0; i < count && wanted > 0; i++) {
      const from = (row + i) * k;
      topIds.set(this.topIds.data.subarray(from, from + wanted), i * wanted);
      topLogprobs.set(this.topLogprobs.data.subarray(from, from + wanted), i * wanted);
    }
    return {
      logprobs,
      depths: Uint8Array.from(this.depth.data.subarray(row, row + count)),
      remainders: this.remainder.data.slice(row, row + count),
      topIds,
      topLogprobs,
      positionSteps,
    };
  }

  drop(ranges: readonly RowRange[]): void {
    this.stack.drop(ranges);
  }

  takePadded(): number {
    return this.stack.takePadded();
  }

  release(): void {
    for (const sequence of this.sequences.values()) sequence.release();
    for (const run of this.runs.values()) run.release();
    this.stack.release();
    const memory = [
      ...Object.values(this.results),
      ...Object.values(this.top),
      ...[
        this.slots,
        this.targets,
        this.logprob,
        this.depth,
        this.remainder,
        this.topLogprobs,
        this.topIds,
        this.kWords,
      ],
      ...[this.began, this.ended],
    ];
    for (const object of memory) object.release();
  }
}

function widestTop(lanes: readonly ResidentLane[]): number {
  return lanes.reduce((most, { request }) => Math.max(most, request.topCount), 0);
}
