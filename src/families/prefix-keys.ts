/**
 * The cache rows that each hypothesis sees, by slot, position and step, side by side: what `PrefixNode.keyRows` finds by walking up the tree, which costs
 * a step of many hypotheses more time than the device needs for it.
 *
 *   slot:  [position 0: depth 1 ... max_steps] [position 1: ...] ... up to the position before its own
 */
import type { Hypothesis } from '../scheduler/decode-scheduler.js';

export class PrefixKeys {
  private readonly rows: Int32Array;
  private readonly slotSize: number;

  constructor(
    slots: number,
    contextTokens: number,
    private readonly maxSteps: number,
  ) {
    this.slotSize = contextTokens * maxSteps;
    this.rows = new Int32Array(slots * this.slotSize);
  }

  /** A hypothesis that begins sees what its parent saw, and its parent. Call in the order of the plan. */
  begin({ node, slot, parentSlot }: Hypothesis): void {
    const { parent } = node;
    if (parent === null) return;
    const { rows, maxSteps } = this;
    const from = parentSlot * this.slotSize;
    const to = slot * this.slotSize;
    const before = parent.position * maxSteps;
    rows.copyWithin(to, from, from + before);
    const last = parent.rows.length - 1;
    for (let step = 0; step < maxSteps; step++) rows[to + before + step] = parent.rows[Math.min(step, last)] as number;
  }

  /** Writes what a hypothesis sees in the step after `steps`, its own row last; returns how many rows. */
  write({ node, slot, steps }: Hypothesis, out: Int32Array, at: number): number {
    const { rows, maxSteps } = this;
    const { position } = node;
    let from = slot * this.slotSize + steps;
    for (let i = 0; i < position; i++, from += maxSteps) out[at + i] = rows[from] as number;
    out[at + position] = node.rows[steps] as number;
    return position + 1;
  }
}
