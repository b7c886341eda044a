/**
 * Whose turn it is when several stages have work: the one that has used the least time (start-time fair queueing, Goyal, Vin and Cheng
 * 1996, with equal weights). A stage with little to do is served almost at once beside one that is saturated, and a saturated
 * one still gets what the others leave: neither starves.
 *
 * What a stage did not use while it rested is no credit, or it could lock the others out afterwards: it starts again from the
 * virtual time, which is where the turn that was served last started, and, when all have rested, where the last of them ended.
 */
export class FairShare {
  private readonly usedMs: number[];
  private readonly idle: boolean[];
  private virtualMs = 0;

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

  /** One more, at the end. It starts where the others are. */
  add(): void {
    this.usedMs.push(this.virtualMs);
    this.idle.push(true);
  }

  /** Stage `i` is gone; those behind it move up. */
  remove(i: number): void {
    this.usedMs.splice(i, 1);
    this.idle.splice(i, 1);
  }

  /** Stage `i` had nothing to do. */
  rest(i: number): void {
    this.idle[i] = true;
    if (this.idle.every(Boolean)) this.virtualMs = Math.max(...this.usedMs);
  }

  /** Stage `i` took a turn. */
  charge(i: number, ms: number): void {
    const used = this.usedMs[i] as number;
    const start = this.idle[i] === true ? Math.max(used, this.virtualMs) : used;
    this.idle[i] = false;
    this.virtualMs = Math.max(this.virtualMs, start);
    this.usedMs[i] = start + ms;
  }
}
