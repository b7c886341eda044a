/**
 * Decides which blocks of which texts run next, for models that carry a cache from block to block (adaptive span). Pure.
 *
 * A lane is one text; it advances a block of `blockTokens` a turn, the last one shorter (`span-blocks.ts`). Lanes take turns and a new
 * one goes to the front, so a long text never holds a short one up by more than one step. Blocks of one step have the same length and
 * the same reach, which are functions of the lane and of its cap alone: a score cannot depend on its batch.
 *
 * A lane whose reader is `blocksAhead` blocks behind waits for it, and holds its cache meanwhile.
 */
import { SlotPool } from './slot-pool.js';
import { blockLength, OPEN_END, unitLength } from './span-blocks.js';

export interface SpanLimits {
  /** Texts (and sessions) that hold a cache at once. */
  readonly lanesMax: number;
  /** Tokens of one step, over all its lanes. */
  readonly rowsMax: number;
  readonly blockTokens: number;
}

export interface SpanLaneRequest {
  readonly jobId: number;
  readonly index: number;
  /** Tokens to predict. */
  readonly ids: Int32Array;
  readonly topCount: number;
  /** Caps every head's z, in keys; null: none. */
  readonly spanCap: number | null;
  /** Keys that no head looks further than: what the cap leaves of the model's longest span. */
  readonly reach: number;
  /** Blocks done before the first of them is taken; null: any number. */
  readonly blocksAhead: number | null;
}

/** What a family needs of a lane to run a block of it. */
export interface SpanBlockLane {
  /** Which of the caches is its own. */
  readonly slot: number;
  /** Position in the stream of the text's first token, and the token before it. */
  readonly startsAt: number;
  readonly startId: number;
  /** Tokens of the text that are done, and that are left. */
  readonly done: number;
  readonly left: number;
  readonly request: Pick<SpanLaneRequest, 'ids' | 'topCount' | 'spanCap'>;
}

/**
 * What a lane leaves behind when its text is done and more may follow. The next text computes the tokens since the last whole unit again, in a
 * unit of the same shape: so the parts of a session score to the bit as the whole does.
 */
export interface StreamState {
  readonly slot: number;
  /** Tokens seen since the beginning of the stream. */
  readonly position: number;
  /** Those since the last whole unit, and the token before them. */
  readonly tail: Int32Array;
  readonly beforeId: number;
}

export class SpanLane implements SpanBlockLane {
  slot = -1;
  /** Tokens of this text that are done. */
  done = 0;
  /** Blocks that are done and not taken. */
  untaken = 0;
  /** Position in the stream of the text's first token, and the token before it. */
  readonly startsAt: number;
  readonly startId: number;
  readonly request: SpanLaneRequest;
  /** Tokens at the beginning of `request.ids` that the stream had before: computed again, and told of no more. */
  readonly repeated: number;

  constructor(
    asked: SpanLaneRequest,
    bosId: number,
    readonly continues: StreamState | null,
    /** The slot is kept when the text is done. */
    readonly keep: boolean,
  ) {
    this.repeated = continues?.tail.length ?? 0;
    this.startsAt = (continues?.position ?? 0) - this.repeated;
    this.startId = continues?.beforeId ?? bosId;
    this.request = continues === null ? asked : { ...asked, ids: joined(continues.tail, asked.ids) };
  }

  get left(): number {
    return this.request.ids.length - this.done;
  }

  /** Tokens of which the length of its units depends. */
  get length(): number {
    return this.keep || this.continues !== null ? OPEN_END : this.request.ids.length;
  }

  /** What whoever appends to it goes on from; all of it is done. */
  leaves(blockTokens: number): StreamState {
    const { slot, startsAt, startId, request } = this;
    const { ids } = request;
    const whole = ids.length - (ids.length % unitLength(OPEN_END, blockTokens));
    const beforeId = whole === 0 ? startId : (ids[whole - 1] as number);
    return { slot, position: startsAt + ids.length, tail: ids.slice(whole), beforeId };
  }

  get waitsForReader(): boolean {
    const { blocksAhead } = this.request;
    return blocksAhead !== null && this.untaken >= blocksAhead;
  }
}

export interface SpanPlan {
  readonly lanes: readonly SpanLane[];
  /** Tokens a lane, padding included; the same for all. */
  readonly blockTokens: number;
  /** Keys that no head looks further than; the same for all. */
  readonly reach: number;
}

// Long texts may not take every cache: a short one would wait for a whole long one to end.
const LONG_BLOCKS = 8;
const LONG_SHARE = 0.75;

export class SpanScheduler {
  private waiting: SpanLane[] = [];
  private running: SpanLane[] = [];
  private readonly slots: SlotPool;

  constructor(readonly limits: SpanLimits) {
    this.slots = new SlotPool(limits.lanesMax);
  }

  get lanesWaiting(): number {
    return this.waiting.length;
  }
  get lanesRunning(): number {
    return this.running.length;
  }
  get slotsUsed(): number {
    return this.slots.capacity - this.slots.available;
  }

  submit(lane: SpanLane): void {
    if (lane.request.ids.length === 0) throw new Error('a lane without tokens would never end');
    this.waiting.push(lane);
  }

  /** Removes the lanes of a job. A session that one of them continued has lost its cache: its slot is freed as well. */
  abort(jobId: number): void {
    const stays = (lane: SpanLane) => lane.request.jobId !== jobId;
    for (const lane of this.running) if (!stays(lane)) this.release(lane.slot);
    for (const lane of this.waiting) if (!stays(lane) && lane.continues !== null) this.release(lane.continues.slot);
    this.running = this.running.filter(stays);
    this.waiting = this.waiting.filter(stays);
  }

  /** Frees a cache that a kept lane left behind. */
  release(slot: number): void {
    this.slots.give(Int32Array.of(slot));
  }

  /** Whoever listens has read a block of a lane. */
  taken(jobId: number, index: number): void {
    const lane = this.running.find(({ request }) => request.jobId === jobId && request.index === index);
    if (lane !== undefined) lane.untaken -= 1;
  }

  schedule(): SpanPlan | null {
    this.admit();
    const ready = this.running.filter(({ waitsForReader }) => !waitsForReader);
    const [first] = ready;
    if (first === undefined) return null;
    const blockTokens = this.blockOf(first);
    const { reach } = first.request;
    const lanesMax = Math.max(1, Math.floor(this.limits.rowsMax / blockTokens));
    const alike = ready.filter((lane) => this.blockOf(lane) === blockTokens && lane.request.reach === reach);
    return { lanes: alike.slice(0, lanesMax), blockTokens, reach };
  }

  private blockOf(lane: SpanLane): number {
    return blockLength(lane.length, lane.left, this.limits.blockTokens);
  }

  private isLong(lane: SpanLane): boolean {
    return lane.request.ids.length > LONG_BLOCKS * this.limits.blockTokens;
  }

  private admit(): void {
    const longMax = Math.max(1, Math.floor(this.limits.lanesMax * LONG_SHARE));
    let long = this.running.filter((lane) => this.isLong(lane)).length;
    const admitted: SpanLane[] = [];
    this.waiting = this.waiting.filter((lane) => {
      const holds = lane.continues !== null;
      if (!holds && (this.slots.available === 0 || (this.isLong(lane) && long >= longMax))) return true;
      lane.slot = lane.continues?.slot ?? (this.slots.take(1)[0] as number);
      if (this.isLong(lane)) long += 1;
      admitted.push(lane);
      return false;
    });
    // Of those that come in together the shortest first; a stable sort, so equal ones keep their order.
    this.running.unshift(...admitted.sort((a, b) => a.left - b.left));
  }

  /** The plan's blocks are done; returns the lanes that have ended. Those that are not kept have given their slot back. */
  apply(plan: SpanPlan): SpanLane[] {
    const ran = new Set(plan.lanes);
    for (const lane of plan.lanes) {
      lane.done += Math.min(plan.blockTokens, lane.left);
      lane.untaken += 1;
    }
    const ended = plan.lanes.filter(({ left }) => left === 0);
    for (const lane of ended) if (!lane.keep) this.release(lane.slot);
    const goOn = plan.lanes.filter(({ left }) => left > 0);
    this.running = [...this.running.filter((lane) => !ran.has(lane)), ...goOn];
    return ended;
  }
}

function joined(first: Int32Array, second: Int32Array): Int32Array {
  const all = new Int32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}
