/**
 * Whose turn it is when several stages have work: the one that has used the least time (start-time fair queueing, Goyal, Vin and Cheng
 * 1996, with equal weights). A stage with little to do is served almost at once beside one that is saturated, and a saturated
 * one still gets what the others leave: neither starves.
 */
export class FairShare {
  private readonly usedMs: number[];
  private readonly idle: boolean[];

  constructor(count: number) {
    this.usedMs = new Array(count).fill(0);
    this.idle = new Array(count).fill(true);
  }

  /** Indices in the order in which to ask for work; ties go to the lower index. */
  order(): number[] {
    return this.usedMs
      .map((_, i) => i)
      .sort((a, b) => (this.usedMs[a] as number) - (this.usedMs[b] as number) || a - b);
  }

  /** Stage `i` had nothing to do. */
  rest(i: number): void {
    this.idle[i] = true;
  }

  /** Stage `i` took a turn. What it did not use while it rested is no credit, or it could lock the others out afterwards. */
  charge(i: number, ms: number): void {
    if (this.idle[i] === true) {
      const busy = this.usedMs.filter((_, other) => other !== i && this.idle[other] === false);
      if (busy.length > 0) this.usedMs[i] = Math.max(this.usedMs[i] as number, Math.min(...busy));
      this.idle[i] = false;
    }
    this.usedMs[i] = (this.usedMs[i] as number) + ms;
  }
}
