/**
 * Decides which rows run next when prompts are continued: continuous batching of prompts and new tokens, at any depth. Pure, like
 * `scheduler.ts`.
 *
 *   submit ──> waiting (by job) ──admit──> burst: step 1, 2, ... ──all its positions halted──> finish: scores, the next token
 *                                            ^                                                        │
 *                                            └────────────────── next burst, of one position <────────┴──> done
 *
 * Every running sequence advances in every step. A sequence is admitted when its prompt fits under `rowsMax` beside the rows that still
 * run, and with a promise of all cache rows it could need: a full cache makes the next one wait and stops none half way. Of a
 * finished burst, the positions that halted last renew their key and value in the next burst's first step: nobody looks at depth
 * N + 1 before step 2.
 */
import { HaltingCounts } from './halting-counts.js';
import { haltingRule } from './halting-rule.js';
import { type Expired, LaneQueue, type TimeLimits } from './lane-queue.js';
import { CachePool } from './prefix-cache.js';
import { chooseRank } from './sampling.js';
import type { AdvanceResult } from './scheduler.js';
import { type Position, type SaidToken, Sequence, type SequenceRequest } from './sequence.js';
import { SlotPool } from './slot-pool.js';

export interface GenerateLimits {
  /** Rows computed in full in one step. */
  readonly rowsMax: number;
  /** Sequences running at once. */
  readonly lanesMax: number;
  /** Positions whose state is held at once. */
  readonly slotsMax: number;
  /** Rows of the key and value pools. */
  readonly cacheRowsMax: number;
  /** Rows whose log-probabilities are computed at once. */
  readonly finishRowsMax: number;
}

export interface SequenceStep {
  readonly sequence: Sequence;
  /** The burst's step to run, from 1. */
  readonly step: number;
  readonly isLast: boolean;
  readonly isHeld: boolean;
}

export interface GenerateAdvancePlan {
  readonly kind: 'advance';
  /** Sequences whose burst begins, whose states are to be written before the step; they are in `lanes` too. */
  readonly begin: readonly Sequence[];
  readonly lanes: readonly SequenceStep[];
  readonly activeRows: number;
  readonly renewedRows: number;
}

export interface GenerateFinishPlan {
  readonly kind: 'finish';
  /** All positions of whose burst have halted. */
  readonly sequences: readonly Sequence[];
}

export type GeneratePlan = GenerateAdvancePlan | GenerateFinishPlan;

/** Best tokens, best first: `topCount` of them and one at least, or all where one is to be drawn. */
export interface Candidates {
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
}

export interface GenerateProgress {
  readonly tokens: readonly { readonly sequence: Sequence; readonly token: SaidToken }[];
  /** Sequences that are done; they have left. */
  readonly done: readonly {
    readonly sequence: Sequence;
    readonly finishReason: 'stop' | 'length';
    readonly cacheRows: number;
  }[];
}

export class GenerateScheduler {
  private readonly queue = new LaneQueue<SequenceRequest>(({ prompt, maxNewTokens }) => prompt.length + maxNewTokens);
  private running: Sequence[] = [];
  private begun: Sequence[] = [];
  private readonly slots: SlotPool;
  readonly cache: CachePool;
  private readonly halting: HaltingCounts;

  constructor(
    readonly limits: GenerateLimits,
    maxSteps: number,
  ) {
    this.slots = new SlotPool(limits.slotsMax);
    this.cache = new CachePool(limits.cacheRowsMax);
    this.halting = new HaltingCounts(maxSteps);
  }

  get lanesWaiting(): number {
    return this.queue.lanes;
  }
  get lanesRunning(): number {
    return this.running.length;
  }
  get slotsUsed(): number {
    return this.slots.capacity - this.slots.available;
  }
  get idle(): boolean {
    return this.queue.lanes === 0 && this.running.length === 0;
  }

  /** Queues a job's sequences. One that exceeds the limits could never be admitted: the caller refuses it first. */
  submit(jobId: number, requests: readonly SequenceRequest[], timeLimits: TimeLimits): void {
    const { rowsMax, slotsMax, cacheRowsMax } = this.limits;
    for (const request of requests) {
      const sequence = new Sequence(request);
      const rows = sequence.promptPositions;
      if (rows > rowsMax || rows + 1 > slotsMax || rowsNeeded(sequence) > cacheRowsMax) {
        throw new Error(`a sequence of ${sequence.positionsMax} positions exceeds rowsMax, slotsMax or cacheRowsMax`);
      }
    }
    this.queue.submit(jobId, requests, timeLimits);
  }

  /** Removes a job wherever it is; its rows are not in the next step. Harmless for a job that has already left. */
  abort(jobId: number): void {
    this.queue.abort(jobId);
    for (const sequence of [...this.running]) if (sequence.request.jobId === jobId) this.leave(sequence);
  }

  /** One sequence ends as it stands; returns it with the cache rows it held, or null when it is not running. */
  stop(jobId: number, index: number): { readonly sequence: Sequence; readonly cacheRows: number } | null {
    const sequence = this.running.find(({ request }) => request.jobId === jobId && request.index === index);
    if (sequence === undefined) return null;
    const { cacheRows } = sequence;
    this.leave(sequence);
    return { sequence, cacheRows };
  }

  /** Aborts the jobs that have run out of time and returns them, longest overdue first. */
  expire(nowMs: number): readonly Expired[] {
    const expired = this.queue.overdue(nowMs);
    for (const { jobId } of expired) this.abort(jobId);
    return expired;
  }

  /** Forgets a job that was answered. */
  settle(jobId: number): void {
    this.queue.settle(jobId);
  }

  private leave(sequence: Sequence): void {
    for (const position of sequence.positions) {
      this.freeSlot(position);
      this.cache.give(position.rows.splice(0));
    }
    this.cache.promise(-sequence.promisedRows);
    sequence.promisedRows = 0;
    this.running = this.running.filter((other) => other !== sequence);
    this.begun = this.begun.filter((other) => other !== sequence);
  }

  private freeSlot(position: Position): void {
    if (position.slot < 0) return;
    this.slots.give(Int32Array.of(position.slot));
    position.slot = -1;
  }

  /** Chooses the rows of the next step; null when there is nothing to do. Bursts that are done are finished before others advance. */
  schedule(): GeneratePlan | null {
    const sequences = this.nextToFinish();
    if (sequences.length > 0) return { kind: 'finish', sequences };
    this.admit();
    if (this.running.length === 0) return null;
    // Nothing to compute for what was just admitted: it is finished as it is.
    const empty = this.nextToFinish();
    if (empty.length > 0) return { kind: 'finish', sequences: empty };
    let activeRows = 0;
    let renewedRows = 0;
    const lanes = this.running.map((sequence) => {
      this.takeRows(sequence);
      activeRows += sequence.activeCount;
      renewedRows += sequence.renewed.length;
      const step = sequence.steps + 1;
      return { sequence, step, ...haltingRule(step, sequence.request.budget) };
    });
    const begin = this.begun;
    this.begun = [];
    return { kind: 'advance', begin, lanes, activeRows, renewedRows };
  }

  private nextToFinish(): Sequence[] {
    const sequences: Sequence[] = [];
    let rows = 0;
    for (const sequence of this.running) {
      if (sequence.activeCount > 0) continue;
      rows += sequence.scoresPrompt ? sequence.length : 1;
      if (sequences.length > 0 && rows > this.limits.finishRowsMax) break;
      sequences.push(sequence);
    }
    return sequences;
  }

  private admit(): void {
    const { rowsMax, lanesMax } = this.limits;
    let rows = this.running.reduce((sum, { activeCount }) => sum + activeCount, 0);
    let slots = this.running.reduce((sum, { reservedSlots }) => sum + reservedSlots, 0);
    while (this.running.length < lanesMax) {
      const request = this.queue.head();
      if (request === null) return;
      const sequence = new Sequence(request);
      const count = sequence.promptPositions;
      const needed = rowsNeeded(sequence);
      // While the prompt's last keys are renewed the first new position already runs.
      const reserved = count + 1;
      if (rows + count > rowsMax || slots + reserved > this.slots.capacity || needed > this.cache.unpromised) return;
      this.queue.take();
      this.cache.promise(needed);
      sequence.promisedRows = needed;
      this.running.push(sequence);
      this.beginBurst(sequence, count);
      sequence.reservedSlots = reserved;
      rows += count;
      slots += reserved;
    }
  }

  private beginBurst(sequence: Sequence, count: number): void {
    sequence.burst = sequence.length;
    sequence.steps = 0;
    sequence.active = Int32Array.from({ length: count }, (_, i) => sequence.burst + i);
    sequence.activeCount = count;
    for (const slot of this.slots.take(count)) sequence.positions.push({ slot, rows: [], depth: 0, remainder: 0 });
    if (count > 0) this.begun.push(sequence);
  }

  /** Where the keys and values of this step go. */
  private takeRows(sequence: Sequence): void {
    const { positions, active, activeCount, renewed, keepsDepths } = sequence;
    const take = ({ rows }: Position) => {
      if (!keepsDepths && rows.length > 0) return;
      rows.push(this.cache.take());
      sequence.promisedRows -= 1;
    };
    for (let i = 0; i < activeCount; i++) take(positions[active[i] as number] as Position);
    for (const place of renewed) take(positions[place] as Position);
  }

  /** A flag and a remainder per active row, sequence after sequence in the plan's order, places ascending. */
  applyAdvance(plan: GenerateAdvancePlan, result: AdvanceResult): void {
    let row = 0;
    for (const { sequence, step } of plan.lanes) {
      this.settleRenewed(sequence);
      row = this.advanceSequence(sequence, step, result, row);
    }
  }

  /** What an earlier burst left to renew is done; within a burst states are still needed, for its scores. */
  private settleRenewed(sequence: Sequence): void {
    for (const place of sequence.renewed) {
      if (place < sequence.burst) this.freeSlot(sequence.positions[place] as Position);
    }
    sequence.renewed = [];
    if (sequence.burst > 0) sequence.reservedSlots = 2;
  }

  private advanceSequence(
    sequence: Sequence,
    step: number,
    { halted, remainders }: AdvanceResult,
    first: number,
  ): number {
    const { active, activeCount: count, request } = sequence;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const place = active[i] as number;
      if (halted[first + i] === 0) {
        active[kept++] = place;
        continue;
      }
      const position = sequence.positions[place] as Position;
      position.depth = step;
      position.remainder = remainders[first + i] as number;
      this.halting.add(step, position.remainder);
      if (step < request.budget.maxSteps) sequence.renewed.push(place);
    }
    if (!sequence.mayContinue) {
      // Only positions up to the last active one are ever looked at again.
      const lastActive = kept > 0 ? (active[kept - 1] as number) : -1;
      sequence.renewed = sequence.renewed.filter((place) => place < lastActive);
    }
    sequence.steps = step;
    sequence.positionSteps += count;
    sequence.activeCount = kept;
    return first + count;
  }

  /** `next`: the candidates of each sequence of the plan, in its order; null where no token is to follow. */
  applyFinish(plan: GenerateFinishPlan, next: readonly (Candidates | null)[]): GenerateProgress {
    const tokens: { sequence: Sequence; token: SaidToken }[] = [];
    const done: { sequence: Sequence; finishReason: 'stop' | 'length'; cacheRows: number }[] = [];
    plan.sequences.forEach((sequence, i) => {
      const candidates = next[i] ?? null;
      const token = candidates === null ? null : say(sequence, candidates);
      if (token !== null) tokens.push({ sequence, token });
      const { stopIds, maxNewTokens } = sequence.request;
      const stops = token !== null && stopIds.has(token.id);
      if (!stops && sequence.said.length < maxNewTokens) {
        this.continueWith(sequence);
        return;
      }
      done.push({ sequence, finishReason: stops ? 'stop' : 'length', cacheRows: sequence.cacheRows });
      this.leave(sequence);
    });
    return { tokens, done };
  }

  private continueWith(sequence: Sequence): void {
    const renewed = new Set(sequence.renewed);
    for (let place = sequence.burst; place < sequence.length; place++) {
      if (!renewed.has(place)) this.freeSlot(sequence.positions[place] as Position);
    }
    // What the burst did not need is free for others: the rest is its last renewals, and what is to follow at full depth.
    const stillNeeded =
      sequence.renewed.length + (sequence.positionsMax - sequence.length) * sequence.request.budget.maxSteps;
    this.cache.promise(stillNeeded - sequence.promisedRows);
    sequence.promisedRows = stillNeeded;
    this.beginBurst(sequence, 1);
  }

  takeHalting(): HaltingCounts {
    return this.halting.take();
  }
}

/** Rows of cache a sequence can need at most. */
function rowsNeeded({ positionsMax, keepsDepths, request }: Sequence): number {
  return positionsMax * (keepsDepths ? request.budget.maxSteps : 1);
}

function say(sequence: Sequence, { ids, logprobs }: Candidates): SaidToken {
  const { request, said, positions } = sequence;
  const rank = chooseRank(logprobs, request, said.length);
  const { depth, remainder } = positions.at(-1) as Position;
  const token: SaidToken = {
    id: ids[rank] as number,
    logprob: logprobs[rank] as number,
    topIds: ids.slice(0, request.topCount),
    topLogprobs: logprobs.slice(0, request.topCount),
    depth,
    remainder,
  };
  said.push(token);
  return token;
}
