/**
 * The decoder of a translating model for greedy sentences that decode on the device without the host: one in each seat (scheduler/seat-scheduler.ts,
 * export/cuda_seats.py). A launch is a few steps as one: each makes its tables from what the step before decided, and steps, and finds the best
 * token of every row, since only the device knows which positions have halted.
 */
import type { Device, DeviceBuffer, DeviceGraph, Marker, PinnedArray, View } from '../runtime/device.js';
import {
  launchSteps,
  SEAT,
  SEAT_FIELDS,
  type SeatedSentence,
  type SeatPlan,
  type SeatResult,
} from '../scheduler/seat-scheduler.js';
import { CapturedRuns, keyOf } from './captured-runs.js';
import type { ResidentMemory } from './resident-memory.js';
import { ROW_FIELDS } from './resident-stack.js';
import { bucketFor, rowBuckets } from './row-buckets.js';

export interface SeatedGraphs {
  readonly seat: DeviceGraph;
  readonly advance: DeviceGraph;
  /** `advance` after the last step of a launch. */
  readonly settle: DeviceGraph;
  readonly step: DeviceGraph;
  readonly best: DeviceGraph;
}

export interface SeatedDecoderSizes {
  readonly seatsMax: number;
  readonly cacheRowsMax: number;
  readonly stepsMax: number;
  /** Positions of one sentence at most. */
  readonly contextTokens: number;
  readonly width: number;
  readonly bosId: number;
}

export interface SeatLaunch extends SeatResult {
  /** Milliseconds of the device. */
  readonly deviceMs: number;
  /** Rows that each step computed. */
  readonly rows: number;
}

/** What a decoder with seats does for the engine. At most LAUNCHES_AHEAD launches are under way. */
export interface SeatingDecoder {
  enqueue(plan: SeatPlan): void;
  /** Whether the launch has run. */
  passed(plan: SeatPlan): boolean;
  /** Blocks until the launch has run. Valid until the next `enqueue`. */
  fetch(plan: SeatPlan): SeatLaunch;
}

export const LAUNCHES_AHEAD = 2;

/** What the host writes and reads of one launch; the next has others. */
interface Exchange {
  readonly at: PinnedArray<Int32Array>;
  readonly arrivals: PinnedArray<Int32Array>;
  readonly thresholds: PinnedArray<Float32Array>;
  readonly seats: PinnedArray<Int32Array>;
  readonly began: Marker;
  readonly ended: Marker;
}

export class SeatedDecoder implements SeatingDecoder {
  private readonly buckets: readonly number[];
  private readonly arrivalBuckets: readonly number[];
  private readonly slots: number;
  private readonly buffers: Readonly<Record<string, DeviceBuffer>>;
  private readonly saidIds: PinnedArray<Int32Array>;
  private readonly saidNumbers: PinnedArray<Float32Array>;
  private readonly exchanges: readonly Exchange[];
  private readonly arrivals: CapturedRuns<number>;
  private readonly launches: CapturedRuns<number>;

  constructor(
    private readonly device: Device,
    private readonly graphs: SeatedGraphs,
    private readonly memory: ResidentMemory,
    private readonly sizes: SeatedDecoderSizes,
  ) {
    const { seatsMax, cacheRowsMax, contextTokens, width: d } = sizes;
    this.buckets = rowBuckets(seatsMax).filter((rows) => Number.isInteger(Math.log2(rows)) || rows === seatsMax);
    this.arrivalBuckets = [...[16, 128].filter((count) => count < seatsMax), seatsMax];
    // A position and the one before, which is renewed while its child already runs; and a scrap row for padding.
    this.slots = 2 * seatsMax + 1;
    const cache = (cacheRowsMax + 1) * d;
    this.buffers = {
      state: device.buffer('float32', this.slots * d),
      accumulator: device.buffer('float32', this.slots * d),
      halting: device.buffer('float32', this.slots),
      keys: device.buffer('float16', cache),
      values: device.buffer('float16', cache),
      // With a scrap seat, for padding of what arrives.
      seats: device.buffer('int32', (seatsMax + 1) * SEAT_FIELDS),
      threshold: device.buffer('float32', seatsMax + 1),
      keyDepths: device.buffer('int32', seatsMax * contextTokens),
      halted: device.buffer('bool', seatsMax),
      remainder: device.buffer('float32', seatsMax),
      logprob: device.buffer('float32', seatsMax),
      id: device.buffer('int32', seatsMax),
      active: device.buffer('int32', seatsMax * ROW_FIELDS),
      renewed: device.buffer('int32', seatsMax * ROW_FIELDS),
      keyIndex: device.buffer('int32', seatsMax * contextTokens),
      seen: device.buffer('int32', seatsMax * 2),
      seatSlots: device.buffer('int32', seatsMax),
    };
    this.saidIds = device.int32(seatsMax * contextTokens * 2);
    this.saidNumbers = device.float32(seatsMax * contextTokens * 2);
    this.exchanges = Array.from({ length: LAUNCHES_AHEAD }, () => ({
      at: device.int32(seatsMax),
      arrivals: device.int32(seatsMax * SEAT_FIELDS),
      thresholds: device.float32(seatsMax),
      seats: device.int32(seatsMax * SEAT_FIELDS),
      began: device.marker(),
      ended: device.marker(),
    }));
    this.arrivals = new CapturedRuns(device);
    this.launches = new CapturedRuns(device);
    this.clear();
    this.capture();
  }

  /** Pools hold numbers from the start, and nobody has arrived. */
  private clear(): void {
    for (const buffer of Object.values(this.buffers)) this.device.fill(buffer, 0);
    for (const { at } of this.exchanges) at.data.fill(-1);
    this.device.synchronise();
  }

  private buffer(name: string): DeviceBuffer {
    return this.buffers[name] as DeviceBuffer;
  }

  private view(name: string, ...dims: number[]): View {
    return { buffer: this.buffer(name), dims };
  }

  /** Captures every launch that a plan may ask for, before the server is ready. */
  private capture(): void {
    this.exchanges.forEach((exchange, parity) => {
      for (const count of this.arrivalBuckets)
        this.arrivals.captureRun(keyOf(count, parity), this.bindSeat(exchange, count));
    });
    for (const rows of this.buckets) {
      const step = this.bindStep(rows);
      const settle = this.bindAdvance(this.graphs.settle, rows);
      for (const steps of launchSteps(this.sizes.stepsMax)) {
        this.launches.capture(keyOf(rows, steps), () => {
          for (let i = 0; i < steps; i++) step();
          settle();
        });
      }
    }
  }

  private bindSeat({ at, arrivals, thresholds }: Exchange, count: number) {
    const all = this.sizes.seatsMax + 1;
    const seats = this.view('seats', all, SEAT_FIELDS);
    const threshold = this.view('threshold', all, 1);
    return this.graphs.seat.bind(
      {
        at: { buffer: at, dims: [count] },
        arrivals: { buffer: arrivals, dims: [count, SEAT_FIELDS] },
        thresholds: { buffer: thresholds, dims: [count] },
        seats,
        threshold,
      },
      { seats_out: seats, threshold_out: threshold },
    );
  }

  private get pools() {
    const { width } = this.sizes;
    return {
      state: this.view('state', this.slots, width),
      accumulator: this.view('accumulator', this.slots, width),
      halting: this.view('halting', this.slots, 1),
    };
  }
  private get poolsOut() {
    const { state, accumulator, halting } = this.pools;
    return { state_out: state, accumulator_out: accumulator, halting_out: halting };
  }

  private bindAdvance(graph: DeviceGraph, rows: number): () => void {
    const { contextTokens } = this.sizes;
    const seats = this.view('seats', rows, SEAT_FIELDS);
    const keyDepths = this.view('keyDepths', rows, contextTokens);
    const said = (buffer: DeviceBuffer) => ({ buffer, dims: [rows, contextTokens, 2] });
    const { pools, poolsOut } = this;
    const run = this.launches.bind(
      graph,
      {
        seats,
        key_depths: keyDepths,
        halted: this.view('halted', rows, 1),
        remainder: this.view('remainder', rows, 1),
        logprob: this.view('logprob', rows, 1),
        id: this.view('id', rows, 1),
        said_ids: said(this.saidIds),
        said_numbers: said(this.saidNumbers),
        ...pools,
      },
      {
        seats_out: seats,
        key_depths_out: keyDepths,
        said_ids_out: said(this.saidIds),
        said_numbers_out: said(this.saidNumbers),
        active: this.view('active', rows, ROW_FIELDS),
        renewed: this.view('renewed', rows, ROW_FIELDS),
        key_index: this.view('keyIndex', rows * contextTokens),
        seen: this.view('seen', rows, 2),
        slots: this.view('seatSlots', rows),
        ...poolsOut,
      },
    );
    return () => run.enqueue();
  }

  private bindStep(rows: number): () => void {
    const { memory, graphs, launches, pools, poolsOut } = this;
    const { width: d, cacheRowsMax, contextTokens } = this.sizes;
    const keys = this.view('keys', cacheRowsMax + 1, d);
    const values = this.view('values', cacheRowsMax + 1, d);
    const advance = this.bindAdvance(graphs.advance, rows);
    const step = launches.bind(
      graphs.step,
      {
        ...{ ...pools, keys, values },
        active: this.view('active', rows, ROW_FIELDS),
        renewed: this.view('renewed', rows, ROW_FIELDS),
        threshold: this.view('threshold', rows, 1),
        key_index: this.view('keyIndex', rows * contextTokens),
        memory_keys: memory.keys,
        memory_values: memory.values,
        memory_key_index: memory.index,
        seen: this.view('seen', rows, 2),
      },
      {
        ...{ ...poolsOut, keys_out: keys, values_out: values },
        halted: this.view('halted', rows, 1),
        remainder: this.view('remainder', rows, 1),
      },
    );
    const best = launches.bind(
      graphs.best,
      { accumulator: pools.accumulator, slots: this.view('seatSlots', rows) },
      { top_logprobs: this.view('logprob', rows, 1), top_ids: this.view('id', rows, 1) },
    );
    return () => {
      advance();
      step.enqueue();
      best.enqueue();
    };
  }

  enqueue(plan: SeatPlan): void {
    const exchange = this.exchangeOf(plan);
    const rows = bucketFor(this.buckets, plan.seats);
    exchange.began.record();
    if (plan.seated.length + plan.vacated.length > 0) this.seat(plan);
    this.launches.launch(keyOf(rows, plan.steps));
    this.device.download(this.buffer('seats'), exchange.seats, 0, plan.seats * SEAT_FIELDS);
    exchange.ended.record();
  }

  private seat(plan: SeatPlan): void {
    const { seated, vacated } = plan;
    const { at, arrivals, thresholds } = this.exchangeOf(plan);
    const count = seated.length + vacated.length;
    const bucket = bucketFor(this.arrivalBuckets, count);
    arrivals.data.fill(0, 0, count * SEAT_FIELDS);
    for (let i = 0; i < seated.length; i++) {
      const { seat, cacheBase, request } = seated[i] as SeatedSentence;
      const { budget, memoryRows, maxNewTokens } = request;
      const row = i * SEAT_FIELDS;
      arrivals.data[row + SEAT.running] = 1;
      arrivals.data[row + SEAT.token] = this.sizes.bosId;
      arrivals.data[row + SEAT.memoryFirst] = memoryRows[0] as number;
      arrivals.data[row + SEAT.memoryCount] = memoryRows.length;
      arrivals.data[row + SEAT.cacheBase] = cacheBase;
      arrivals.data[row + SEAT.limits] = budget.maxSteps * 256 + budget.minSteps;
      arrivals.data[row + SEAT.tokensMax] = maxNewTokens;
      at.data[i] = seat;
      thresholds.data[i] = budget.threshold;
    }
    for (let i = 0; i < vacated.length; i++) {
      at.data[seated.length + i] = vacated[i] as number;
      thresholds.data[seated.length + i] = 1;
    }
    at.data.fill(-1, count, bucket);
    this.arrivals.launch(keyOf(bucket, parityOf(plan)));
  }

  passed(plan: SeatPlan): boolean {
    return this.exchangeOf(plan).ended.passed();
  }

  private exchangeOf(plan: SeatPlan): Exchange {
    return this.exchanges[parityOf(plan)] as Exchange;
  }

  fetch(plan: SeatPlan): SeatLaunch {
    const { seats, began, ended } = this.exchangeOf(plan);
    ended.wait();
    return {
      seats: seats.data,
      saidIds: this.saidIds.data,
      saidNumbers: this.saidNumbers.data,
      contextTokens: this.sizes.contextTokens,
      rows: bucketFor(this.buckets, plan.seats),
      deviceMs: ended.since(began),
    };
  }

  release(): void {
    this.arrivals.release();
    this.launches.release();
    const objects = this.exchanges.flatMap((exchange) => Object.values(exchange) as { release(): void }[]);
    for (const object of [...objects, this.saidIds, this.saidNumbers, ...Object.values(this.buffers)]) object.release();
  }
}

/** Which exchange a launch has. */
function parityOf({ launch }: SeatPlan): number {
  return launch % LAUNCHES_AHEAD;
}
