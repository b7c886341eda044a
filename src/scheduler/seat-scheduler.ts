/**
 * Decides which greedy sentences a device decodes by itself: each has a seat there until it is done, and every launch takes all seats a few steps
 * further (export/cuda_seats.py). Pure, like `scheduler.ts`. What a launch said is read while the next already runs, so a seat becomes free a launch
 * after its sentence has ended.
 *
 *   waiting ──seat──> said, launch after launch ──> done, or gone: the seat is taken again, or vacated with the next launch
 */
import { type FinishReason, normalisedScore, repeatsItself } from './beam.js';
import type { Decoded, DecodeRequest } from './decode-scheduler.js';
import { HaltingCounts } from './halting-counts.js';
import { RangePool } from './range-pool.js';

/** Columns of a seat, as the device keeps it. */
export const SEAT_FIELDS = 16;
export const SEAT = {
  running: 0,
  planned: 1,
  position: 2,
  stepsHere: 3,
  token: 4,
  said: 5,
  steps: 6,
  renew: 7,
  memoryFirst: 8,
  memoryCount: 9,
  cacheBase: 10,
  limits: 11,
  tokensMax: 12,
} as const;

export interface SeatLimits {
  readonly seatsMax: number;
  /** Rows of the key and value pools. */
  readonly cacheRowsMax: number;
  /** Steps of a launch at most. */
  readonly stepsMax: number;
}

export class SeatedSentence {
  /** Without the end of sentence. */
  readonly ids: number[] = [];
  /** Of `ids`, and of the end of sentence where there is one. */
  readonly logprobs: number[] = [];
  readonly depths: number[] = [];
  total = 0;
  /** Steps of the device that were counted. */
  steps = 0;
  finishReason: FinishReason | null = null;

  constructor(
    readonly request: DecodeRequest,
    readonly seat: number,
    readonly cacheBase: number,
    /** Its first. */
    readonly launch: number,
  ) {}

  get score(): number {
    return normalisedScore(this.total, this.logprobs.length, this.request.lengthPenalty);
  }

  get positions(): number {
    return this.depths.length;
  }
  get positionSteps(): number {
    return this.depths.reduce((sum, depth) => sum + depth, 0);
  }

  decoded(): Decoded {
    const { ids, logprobs, depths, score, finishReason } = this;
    if (finishReason === null) throw new Error('a sentence was answered before it had ended');
    return { ids, logprobs, depths, score, finishReason };
  }
}

export interface SeatPlan {
  /** Counts up. */
  readonly launch: number;
  /** To be seated before the steps. */
  readonly seated: readonly SeatedSentence[];
  /** Seats whose sentence has left before its end, and that nobody takes. */
  readonly vacated: readonly number[];
  /** All that are occupied are below. */
  readonly seats: number;
  readonly steps: number;
}

/** What lies on the device after a launch. */
export interface SeatResult {
  /** [seats, SEAT_FIELDS] */
  readonly seats: Int32Array;
  /** [seats, context, 2]: token and depth, log-probability and remainder, of everything said since the seat was taken. */
  readonly saidIds: Int32Array;
  readonly saidNumbers: Float32Array;
  readonly contextTokens: number;
}

/** Tokens [from, to) of a sentence, the end of sentence included. */
export interface Said {
  readonly sentence: SeatedSentence;
  readonly from: number;
  readonly to: number;
}

export interface SeatProgress {
  readonly said: readonly Said[];
  /** They have left. */
  readonly done: readonly SeatedSentence[];
  readonly activeSteps: number;
  readonly renewed: number;
}

/** Steps that a launch can have: captured in advance, so there are few. */
export function launchSteps(stepsMax: number): number[] {
  return [1, 2, 3, 4, 6, 8, 12, 16].filter((steps) => steps <= stepsMax);
}

/** Weight of a launch in what a token usually takes. */
const LEARNING_RATE = 0.05;

export class SeatScheduler {
  private waiting: DecodeRequest[] = [];
  private readonly occupants: (SeatedSentence | undefined)[];
  private readonly vacated = new Set<number>();
  private readonly cache: RangePool;
  private readonly ladder: readonly number[];
  private seated = 0;
  private lowestFree = 0;
  private top = 0;
  private launches = 0;
  /** Steps that a token takes. */
  private usualSteps = 1;
  private readonly halting: HaltingCounts;

  constructor(
    readonly limits: SeatLimits,
    maxSteps: number,
    private readonly eosId: number,
  ) {
    this.occupants = new Array(limits.seatsMax);
    this.cache = new RangePool(limits.cacheRowsMax);
    this.ladder = launchSteps(limits.stepsMax);
    this.halting = new HaltingCounts(maxSteps);
  }

  get lanesWaiting(): number {
    return this.waiting.length;
  }
  get lanesRunning(): number {
    return this.seated;
  }
  get cacheRowsUsed(): number {
    return this.cache.rowsUsed;
  }

  submit(request: DecodeRequest): void {
    if (request.beam !== 1) throw new Error('a seat holds one hypothesis');
    if (rowsNeeded(request) > this.limits.cacheRowsMax) throw new Error('a sentence exceeds the cache');
    this.waiting.push(request);
  }

  /** Removes a job's sentences. Returns the memory rows they held: no launch that comes after reads them. */
  abort(jobId: number): Int32Array[] {
    const leaving = this.waiting.filter((request) => request.jobId === jobId);
    if (leaving.length > 0) this.waiting = this.waiting.filter((request) => request.jobId !== jobId);
    const memory = leaving.map(({ memoryRows }) => memoryRows);
    for (let seat = 0; seat < this.top; seat++) {
      const sentence = this.occupants[seat];
      if (sentence?.request.jobId !== jobId) continue;
      memory.push(sentence.request.memoryRows);
      this.free(sentence);
      this.vacated.add(seat);
    }
    return memory;
  }

  private free({ seat, cacheBase, request }: SeatedSentence): void {
    this.occupants[seat] = undefined;
    this.seated -= 1;
    this.lowestFree = Math.min(this.lowestFree, seat);
    while (this.top > 0 && this.occupants[this.top - 1] === undefined) this.top -= 1;
    this.cache.give(cacheBase, rowsNeeded(request));
  }

  /** Null: no seat is taken, as far as is known. */
  schedule(): SeatPlan | null {
    const seated = this.admit();
    if (this.seated === 0) return null;
    const vacated = [...this.vacated];
    this.vacated.clear();
    // About a token of each sentence: what ends within a launch idles until its end.
    const wanted = Math.ceil(this.usualSteps);
    const steps = this.ladder.findLast((step) => step <= wanted) ?? 1;
    return { launch: this.launches++, seated, vacated, seats: this.top, steps };
  }

  private admit(): SeatedSentence[] {
    const admitted: SeatedSentence[] = [];
    const { seatsMax } = this.limits;
    for (const request of this.waiting) {
      if (this.seated === seatsMax) break;
      const cacheBase = this.cache.take(rowsNeeded(request));
      if (cacheBase === null) break;
      while (this.occupants[this.lowestFree] !== undefined) this.lowestFree += 1;
      const seat = this.lowestFree;
      const sentence = new SeatedSentence(request, seat, cacheBase, this.launches);
      this.occupants[seat] = sentence;
      this.seated += 1;
      this.top = Math.max(this.top, seat + 1);
      this.vacated.delete(seat);
      admitted.push(sentence);
    }
    this.waiting.splice(0, admitted.length);
    return admitted;
  }

  /** The launches are read in their order. */
  apply(plan: SeatPlan, result: SeatResult): SeatProgress {
    const said: Said[] = [];
    const done: SeatedSentence[] = [];
    let activeSteps = 0;
    let renewed = 0;
    let tokens = 0;
    let steps = 0;
    for (let seat = 0; seat < plan.seats; seat++) {
      const sentence = this.occupants[seat];
      if (sentence === undefined || sentence.launch > plan.launch) continue;
      const all = result.seats[seat * SEAT_FIELDS + SEAT.steps] as number;
      activeSteps += all - sentence.steps;
      sentence.steps = all;
      const from = sentence.logprobs.length;
      const upto = result.seats[seat * SEAT_FIELDS + SEAT.said] as number;
      if (upto === from) continue;
      for (let n = from; n < upto && sentence.finishReason === null; n++) this.hear(sentence, n, result);
      const to = sentence.logprobs.length;
      said.push({ sentence, from, to });
      tokens += to - from;
      for (let n = from; n < to; n++) {
        const depth = sentence.depths[n] as number;
        steps += depth;
        const goesOn = n + 1 < to || sentence.finishReason === null;
        if (goesOn && depth < sentence.request.budget.maxSteps) renewed += 1;
      }
      if (sentence.finishReason === null) continue;
      this.free(sentence);
      // The device does not look for repetition.
      if (sentence.finishReason === 'repetition') this.vacated.add(seat);
      done.push(sentence);
    }
    if (tokens > 0) this.usualSteps += LEARNING_RATE * (steps / tokens - this.usualSteps);
    return { said, done, activeSteps, renewed };
  }

  private hear(sentence: SeatedSentence, n: number, { saidIds, saidNumbers, contextTokens }: SeatResult): void {
    const at = 2 * (sentence.seat * contextTokens + n);
    const id = saidIds[at] as number;
    const depth = saidIds[at + 1] as number;
    const logprob = saidNumbers[at] as number;
    sentence.logprobs.push(logprob);
    sentence.depths.push(depth);
    sentence.total += logprob;
    this.halting.add(depth, saidNumbers[at + 1] as number);
    if (id === this.eosId) {
      sentence.finishReason = 'stop';
      return;
    }
    const { ids } = sentence;
    ids.push(id);
    if (ids.length >= sentence.request.maxNewTokens) sentence.finishReason = 'length';
    else if (repeatsItself(ids)) sentence.finishReason = 'repetition';
  }

  takeHalting(): HaltingCounts {
    return this.halting.take();
  }
}

/** Every position at full depth, side by side: the device finds a key by arithmetic. */
function rowsNeeded({ maxNewTokens, budget }: DecodeRequest): number {
  return maxNewTokens * budget.maxSteps;
}
