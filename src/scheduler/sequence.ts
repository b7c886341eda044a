/**
 * A sequence that is being continued. Its positions run in bursts: all of the prompt's together, then one for each new token. A burst is
 * like a lane of scoring, but what it leaves behind stays: under `freeze` a position's key and value at depth t are those of
 * depth min(t, N + 1), so later positions at any depth find theirs among its N + 1 rows of the cache.
 *
 *   prompt  a b c     burst 1:  <s> a b c    decides  d      the position that reads a token decides the next;
 *                     burst 2:  d            decides  e      the last token is never read
 */
import type { Budget } from '../engine/protocol.js';
import type { Sampling } from './sampling.js';

export interface SequenceRequest extends Sampling {
  readonly jobId: number;
  /** Which of the job's prompts. */
  readonly index: number;
  /** Without `<s>`. */
  readonly prompt: Int32Array;
  readonly budget: Budget;
  /** Prompt and new tokens together fit the model's context. */
  readonly maxNewTokens: number;
  readonly topCount: number;
  readonly promptLogprobs: boolean;
  readonly stopIds: ReadonlySet<number>;
}

export interface Position {
  /** Pool row of its state; -1 once it is settled. */
  slot: number;
  /** Cache rows of depth 1, 2, ...; a sequence that nothing follows has one, which is written again at each step. */
  readonly rows: number[];
  /** N and R, once it has halted. */
  depth: number;
  remainder: number;
}

/** A new token and its log-probability, with its best rivals. */
export interface SaidToken {
  readonly id: number;
  readonly logprob: number;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly depth: number;
  readonly remainder: number;
}

export class Sequence {
  readonly positions: Position[] = [];
  readonly said: SaidToken[] = [];
  /** Place of the burst's first position, and the steps that the burst has done. */
  burst = 0;
  steps = 0;
  /** Places that run, ascending; the first `activeCount` count. Compacted in place. */
  active = new Int32Array(0);
  activeCount = 0;
  /** Places that halted in the step before and are to renew key and value at depth N + 1, for the last time. */
  renewed: number[] = [];
  /** Cache rows promised to it and not taken yet. */
  promisedRows = 0;
  /** State rows that it may hold at a time until its next burst. */
  reservedSlots = 0;
  /** Rows computed in full so far: the sequence's cost. */
  positionSteps = 0;

  constructor(readonly request: SequenceRequest) {}

  /** Positions of the whole sequence at most. */
  get positionsMax(): number {
    return this.request.prompt.length + this.request.maxNewTokens;
  }

  /** Positions of the first burst: the last one, which decides the first new token, only where there is to be one. */
  get promptPositions(): number {
    return this.request.prompt.length + Math.min(1, this.request.maxNewTokens);
  }

  /** Whether positions may follow the prompt's: if none do, nobody looks at a depth once its step is over. */
  get keepsDepths(): boolean {
    return this.request.maxNewTokens > 1;
  }

  /** Whether another burst may follow the one that runs. */
  get mayContinue(): boolean {
    return this.said.length + 1 < this.request.maxNewTokens;
  }

  get length(): number {
    return this.positions.length;
  }

  /** The first burst is the prompt's, and its scores are wanted. */
  get scoresPrompt(): boolean {
    return this.request.promptLogprobs && this.burst === 0;
  }

  get cacheRows(): number {
    return this.positions.reduce((sum, { rows }) => sum + rows.length, 0);
  }

  /** The token that is read at a place. */
  inputAt(place: number, bosId: number): number {
    const { prompt } = this.request;
    if (place === 0) return bosId;
    return place <= prompt.length
      ? (prompt[place - 1] as number)
      : (this.said[place - prompt.length - 1] as SaidToken).id;
  }

  /** Cache rows of all positions as a query at `step` sees them. */
  keyRowsAt(step: number): Int32Array {
    return Int32Array.from(this.positions, ({ rows }) => rows[Math.min(step, rows.length) - 1] as number);
  }
}
