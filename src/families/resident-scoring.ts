/** Scoring on a device: what `universal-transformer.ts` does on the CPU, with rows that stay there. One object serves one cohort of lanes. */
import type { ScoreWindowResult } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import { notANumber } from '../runtime/backend.js';
import type { BoundRun, Device, DeviceBuffer, DeviceGraph, Marker, PinnedArray } from '../runtime/device.js';
import type { ResidentLane, ResidentPlan, RowRange } from '../scheduler/resident-scheduler.js';
import { CapturedRuns } from './captured-runs.js';
import { openDeviceGraphs } from './device-graphs.js';
import type { Launch, Launching } from './launching.js';
import { type ResidentSizes, ResidentStack } from './resident-stack.js';
import { bucketFor } from './row-buckets.js';

const GRAPHS = ['begin_lanes', 'tile', 'step', 'finish', 'finish_top'] as const;
export type ScoringGraphs = Readonly<Record<(typeof GRAPHS)[number], DeviceGraph>>;

/** Where candidates are wanted, logits are written: those of so many rows, 32 KiB each at 8192 words, stay in the second-level cache of a GPU. */
const TOP_CHUNK_ROWS = 1024;
/** From 512 rows on, so many more are one wave of blocks of the output layer. */
const FINISH_WAVE_ROWS = 512;
const NO_IDS = new Int32Array(0);
const NO_LOGPROBS = new Float32Array(0);
/** Best candidates that a request may ask for: schemas.ts. */
const TOP_MAX = 20;

export function openScoringGraphs(device: Device, model: ModelDescription): ScoringGraphs {
  return openDeviceGraphs(device, model, GRAPHS);
}

export class ResidentScoring implements Launching<ScoreWindowResult> {
  private readonly stack: ResidentStack;
  private readonly slots: PinnedArray<Int32Array>;
  private readonly targets: PinnedArray<Int32Array>;
  private readonly logprob: PinnedArray<Float32Array>;
  private readonly depth: PinnedArray<Int32Array>;
  private readonly remainder: PinnedArray<Float32Array>;
  private readonly topLogprobs: PinnedArray<Float32Array>;
  private readonly topIds: PinnedArray<Int32Array>;
  private readonly k: DeviceBuffer;
  private readonly kWords: PinnedArray<Int32Array>;
  private readonly began: Marker;
  private readonly ended: Marker;
  /** By bucket of rows. */
  private readonly finishes: CapturedRuns<number>;
  private readonly buckets: readonly number[];
  private readonly topRuns = new Map<string, BoundRun>();

  constructor(
    private readonly device: Device,
    private readonly graphs: ScoringGraphs,
    private readonly model: Pick<ModelDescription, 'bosId'>,
    sizes: ResidentSizes,
  ) {
    this.stack = new ResidentStack(device, graphs, sizes);
    // A lane longer than the limit still finishes in one piece.
    this.buckets = finishBuckets(Math.max(sizes.finishRowsMax, sizes.rowsMax));
    const rows = this.buckets.at(-1) as number;
    this.slots = device.int32(rows);
    this.targets = device.int32(rows);
    this.logprob = device.float32(rows);
    this.depth = device.int32(rows);
    this.remainder = device.float32(rows);
    this.topLogprobs = device.float32(rows * TOP_MAX);
    this.topIds = device.int32(rows * TOP_MAX);
    this.k = device.buffer('int64', 1);
    this.kWords = device.int32(2);
    this.began = device.marker();
    this.ended = device.marker();
    this.finishes = new CapturedRuns(device);
    this.slots.data.fill(-1);
    this.targets.data.fill(0);
    for (const bucket of this.buckets) this.finishes.captureRun(bucket, this.bindFinish(graphs.finish, 0, bucket, 1));
  }

  enqueue(plan: ResidentPlan): void {
    this.began.record();
    if (plan.finish.length > 0) this.enqueueFinish(plan.finish);
    this.stack.enqueue(plan, ({ request, length }, ids, from) => {
      // Position i predicts ids[i], so it reads the token before: <s>, ids[0], ids[1], ...
      ids[from] = this.model.bosId;
      copy(request.ids, 0, length - 1, ids, from + 1);
    });
    this.ended.record();
  }

  private enqueueFinish(lanes: readonly ResidentLane[]): void {
    const { data: slots } = this.slots;
    const { data: targets } = this.targets;
    let rows = 0;
    for (const { base, length, request } of lanes) {
      copy(request.ids, request.scoreFrom, length, targets, rows);
      for (let position = request.scoreFrom; position < length; position++) slots[rows++] = base + position;
    }
    const bucket = bucketFor(this.buckets, rows);
    slots.fill(-1, rows, bucket);
    targets.fill(0, rows, bucket);
    const k = widestTop(lanes);
    if (k === 0) {
      this.finishes.launch(bucket);
      return;
    }
    // One 64-bit number.
    this.kWords.data.set([k, 0]);
    this.device.upload(this.kWords, this.k, 0, 1);
    for (let start = 0; start < bucket; start += TOP_CHUNK_ROWS)
      this.finishTop(start, Math.min(TOP_CHUNK_ROWS, bucket - start), k);
  }

  private bindFinish(graph: DeviceGraph, start: number, rows: number, top: number): BoundRun {
    const { stack } = this;
    const part = (buffer: DeviceBuffer) => ({ buffer, dims: [rows], start });
    const { slots, targets, logprob, depth, remainder, topLogprobs, topIds } = this;
    return graph.bind(
      {
        accumulator: { buffer: stack.accumulator, dims: [stack.slots, stack.width] },
        depths: { buffer: stack.depths, dims: [stack.slots] },
        remainders: { buffer: stack.remainders, dims: [stack.slots] },
        slots: part(slots),
        targets: part(targets),
        k: { buffer: this.k, dims: [1] },
      },
      {
        logprob: part(logprob),
        depth: part(depth),
        remainder: part(remainder),
        top_logprobs: { buffer: topLogprobs, dims: [rows, top], start: start * top },
        top_ids: { buffer: topIds, dims: [rows, top], start: start * top },
      },
    );
  }

  /** Not captured: how many candidates are wanted is the request's choice. */
  private finishTop(start: number, rows: number, k: number): void {
    const key = `${start} ${rows} top ${k}`;
    let run = this.topRuns.get(key);
    if (run === undefined) {
      run = this.bindFinish(this.graphs.finish_top, start, rows, k);
      this.topRuns.set(key, run);
    }
    run.enqueue();
  }

  passed(): boolean {
    return this.ended.passed();
  }

  fetch(plan: ResidentPlan): Launch<ScoreWindowResult> {
    this.ended.wait();
    return {
      finished: this.read(plan.finish),
      progress: this.stack.progressOf(plan),
      deviceMs: this.ended.since(this.began),
    };
  }

  /** The results of all lanes lie in one buffer, so that they cross to the main thread as one. */
  private read(lanes: readonly ResidentLane[]): ScoreWindowResult[] {
    const rows = lanes.reduce((sum, { length, request }) => sum + length - request.scoreFrom, 0);
    const k = widestTop(lanes);
    const buffer = new ArrayBuffer(rows * (4 + 4 + 8 * k + 1));
    const logprobs = new Float32Array(buffer, 0, rows);
    const remainders = new Float32Array(buffer, 4 * rows, rows);
    const topLogprobs = new Float32Array(buffer, 8 * rows, rows * k);
    const topIds = new Int32Array(buffer, (8 + 4 * k) * rows, rows * k);
    const depths = new Uint8Array(buffer, (8 + 8 * k) * rows, rows);
    logprobs.set(this.logprob.data.subarray(0, rows));
    remainders.set(this.remainder.data.subarray(0, rows));
    const { data: depth } = this.depth;
    let sum = 0;
    for (let row = 0; row < rows; row++) {
      depths[row] = depth[row] as number;
      sum += logprobs[row] as number;
    }
    if (Number.isNaN(sum)) throw notANumber('finish');
    let row = 0;
    let top = 0;
    return lanes.map(({ request, length, positionSteps }) => {
      const count = length - request.scoreFrom;
      const wanted = request.topCount;
      for (let i = 0; i < count && wanted > 0; i++) {
        const from = (row + i) * k;
        topLogprobs.set(this.topLogprobs.data.subarray(from, from + wanted), top + i * wanted);
        topIds.set(this.topIds.data.subarray(from, from + wanted), top + i * wanted);
      }
      const result = {
        logprobs: logprobs.subarray(row, row + count),
        depths: depths.subarray(row, row + count),
        remainders: remainders.subarray(row, row + count),
        topIds: wanted === 0 ? NO_IDS : topIds.subarray(top, top + count * wanted),
        topLogprobs: wanted === 0 ? NO_LOGPROBS : topLogprobs.subarray(top, top + count * wanted),
        positionSteps,
      };
      row += count;
      top += count * wanted;
      return result;
    });
  }

  drop(ranges: readonly RowRange[]): void {
    this.stack.drop(ranges);
  }

  takePadded(): number {
    return this.stack.takePadded();
  }

  release(): void {
    this.finishes.release();
    for (const run of this.topRuns.values()) run.release();
    this.stack.release();
    const memory = [
      this.k,
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

function finishBuckets(rows: number): number[] {
  const waves = Array.from({ length: Math.ceil(rows / FINISH_WAVE_ROWS) }, (_, i) => (i + 1) * FINISH_WAVE_ROWS);
  return [64, 128, 256, ...waves];
}

/** from[start ... end) to `to`: a lane is short, and a view of it would cost more than its copy. */
function copy(from: Int32Array, start: number, end: number, to: Int32Array, at: number): void {
  for (let i = start; i < end; i++) to[at + i - start] = from[i] as number;
}

function widestTop(lanes: readonly ResidentLane[]): number {
  return lanes.reduce((most, { request }) => Math.max(most, request.topCount), 0);
}
