/**
 * A lane: one sequence in one recurrent stack, from admission until all its positions have halted.
 *
 *   positions   0 1 2 3 4 5 6 7          before step 4:
 *   halted at   3 . 2 3 . . 2 3            active  = 1 4 5      computed in full
 *                                          renewed = 0 3        halted in step 3: key and value once more, then never again
 *                                          (2, 6 are settled; 7 lies after the last active position and nobody will look at it)
 */
import type { Budget } from '../engine/protocol.js';

export interface LaneRequest {
  readonly jobId: number;
  /** Which part of the job this lane answers, such as the window. */
  readonly index: number;
  /** Token ids of the window; position i of the lane predicts ids[i]. */
  readonly ids: Int32Array;
  readonly scoreFrom: number;
  readonly topCount: number;
  readonly budget: Budget;
}

export class Lane {
  readonly length: number;
  /** Pool rows of the positions; empty until admitted. */
  slots: Int32Array = new Int32Array(0);
  /** A lane only ever sees keys and values as they stand at its own step: one row a position, the slot's. */
  get keyRows(): Int32Array {
    return this.slots;
  }
  /** Rows of the memory pool that the lane's result goes to; empty for a stack that leaves none. */
  memoryRows: Int32Array = new Int32Array(0);
  /** Steps done. */
  steps = 0;
  /** Positions that run, ascending; the first `activeCount` count. Compacted in place. */
  readonly active: Int32Array;
  activeCount: number;
  /** Positions that halted in the last step and whose key and value some active position will still see. */
  readonly renewed: Int32Array;
  renewedCount = 0;
  /** N and R of each position, once it has halted. */
  readonly depths: Uint8Array;
  readonly remainders: Float32Array;
  /** Rows computed in full so far: the lane's cost. */
  positionSteps = 0;

  constructor(readonly request: LaneRequest) {
    this.length = request.ids.length;
    this.active = Int32Array.from({ length: this.length }, (_, i) => i);
    this.activeCount = this.length;
    this.renewed = new Int32Array(this.length);
    this.depths = new Uint8Array(this.length);
    this.remainders = new Float32Array(this.length);
  }
}
