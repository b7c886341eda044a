/**
 * A device with seats, without weights: it takes each seat from step to step as export/cuda_seats.py says, halts and chooses tokens as
 * translation-oracle.ts says, and throws an AssertionError when a launch would overwrite what another sentence still reads.
 */
import assert from 'node:assert/strict';
import { SEAT, SEAT_FIELDS, type SeatPlan, type SeatResult } from '../src/scheduler/seat-scheduler.js';
import { haltingProbability, haltingUpdate } from './halting-oracle.js';
import { BOS, bestTokens, EOS, prefixPrints, stutters } from './translation-oracle.js';

interface Seat {
  readonly jobId: number;
  readonly memoryRows: Int32Array;
  readonly source: Int32Array;
  readonly budget: { readonly maxSteps: number; readonly minSteps: number; readonly threshold: number };
  readonly tokensMax: number;
  readonly cache: readonly [number, number];
  readonly prefix: number[];
  stepsHere: number;
  steps: number;
  said: number;
  sum: number;
  running: boolean;
  /** Whoever hears it ends it for that. */
  repeats: boolean;
}

export class FakeSeats {
  /** Seats that ran, a step. */
  readonly rowsPerStep: number[] = [];
  renewed = 0;
  /** Jobs that were aborted or answered. */
  readonly gone = new Set<number>();
  private readonly seats: (Seat | undefined)[];
  private readonly saidIds: Int32Array;
  private readonly saidNumbers: Float32Array;
  private launched = -1;

  constructor(
    private readonly seatsMax: number,
    private readonly contextTokens: number,
    private readonly sourceOf: (memoryRows: Int32Array) => Int32Array,
  ) {
    this.seats = new Array(seatsMax);
    this.saidIds = new Int32Array(seatsMax * contextTokens * 2);
    this.saidNumbers = new Float32Array(seatsMax * contextTokens * 2);
  }

  /** Runs a launch; what it returns is what lies there when the launch is read, later launches notwithstanding. */
  launch({ launch, seated, vacated, seats, steps }: SeatPlan): SeatResult {
    assert.ok(launch > this.launched, 'launches count up');
    this.launched = launch;
    const taken = [...seated.map(({ seat }) => seat), ...vacated];
    assert.equal(new Set(taken).size, taken.length, 'a seat is filled or vacated once');
    for (const seat of vacated) this.seats[seat] = undefined;
    for (const { seat, request, cacheBase } of seated) {
      assert.ok(seat < this.seatsMax && seat < seats);
      const before = this.seats[seat];
      assert.ok(before === undefined || !this.isHeard(before), 'nobody is unseated who has more to say');
      const { budget, maxNewTokens, memoryRows, jobId } = request;
      const source = this.sourceOf(memoryRows);
      const cache = [cacheBase, cacheBase + maxNewTokens * budget.maxSteps] as const;
      const counts = { stepsHere: 0, steps: 0, said: 0, sum: 0, running: true, repeats: false };
      this.seats[seat] = {
        jobId,
        memoryRows,
        source,
        budget,
        tokensMax: maxNewTokens,
        cache,
        prefix: [BOS],
        ...counts,
      };
    }
    this.checkCache();
    const running = this.seats.flatMap((seat, i) => (seat?.running === true ? [i] : []));
    assert.ok(
      running.every((i) => i < seats),
      'every seat that runs is in the launch',
    );
    for (let step = 0; step < steps; step++) {
      const now = running.filter((i) => this.seats[i]?.running);
      this.rowsPerStep.push(now.length);
      for (const i of now) this.step(i, this.seats[i] as Seat);
    }
    const table = new Int32Array(this.seatsMax * SEAT_FIELDS);
    this.seats.forEach((seat, i) => {
      table[i * SEAT_FIELDS + SEAT.said] = seat?.said ?? 0;
      table[i * SEAT_FIELDS + SEAT.steps] = seat?.steps ?? 0;
    });
    const { contextTokens, saidIds, saidNumbers } = this;
    return { seats: table, saidIds, saidNumbers, contextTokens };
  }

  private isHeard({ running, repeats, jobId }: Seat): boolean {
    return running && !repeats && !this.gone.has(jobId);
  }

  private checkCache(): void {
    const ranges = this.seats.flatMap((seat) => (seat?.running === true ? [seat.cache] : []));
    ranges.sort(([a], [b]) => a - b);
    for (let i = 1; i < ranges.length; i++)
      assert.ok((ranges[i - 1]?.[1] ?? 0) <= (ranges[i]?.[0] ?? 0), 'no cache row has two owners');
  }

  private step(i: number, seat: Seat): void {
    const { prefix, source, budget } = seat;
    if (this.isHeard(seat)) assert.equal(this.sourceOf(seat.memoryRows), source, 'its memory stands while it is heard');
    seat.stepsHere += 1;
    seat.steps += 1;
    const position = prefix.length - 1;
    const print = prefixPrints(source, prefix).at(-1) as number;
    const { maxSteps, minSteps, threshold } = budget;
    const p = haltingProbability(print, position, seat.stepsHere);
    const update = haltingUpdate(p, seat.sum, threshold, seat.stepsHere >= maxSteps, seat.stepsHere < minSteps);
    seat.sum = update.sum;
    if (!update.halted) return;
    const { ids, logprobs } = bestTokens(source, [prefix], 1);
    const id = ids[0] as number;
    const at = 2 * (i * this.contextTokens + seat.said);
    this.saidIds.set([id, seat.stepsHere], at);
    this.saidNumbers.set([logprobs[0] as number, update.remainder], at);
    seat.said += 1;
    if (id === EOS || seat.said >= seat.tokensMax) {
      seat.running = false;
      return;
    }
    if (seat.stepsHere < maxSteps) this.renewed += 1;
    prefix.push(id);
    seat.repeats ||= stutters(prefix.slice(1));
    seat.stepsHere = 0;
    seat.sum = 0;
  }
}
