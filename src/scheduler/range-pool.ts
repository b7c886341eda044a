/** Ranges of rows of the device pools: a lane's positions lie next to each other, so that its keys need no list. First fit, neighbours merged. */
export class RangePool {
  /** Free ranges, ascending and never touching. */
  private readonly free: { start: number; count: number }[];
  private used = 0;

  constructor(readonly capacity: number) {
    this.free = [{ start: 0, count: capacity }];
  }

  get rowsUsed(): number {
    return this.used;
  }

  /** Rows of the longest free range. */
  get longest(): number {
    let longest = 0;
    for (const { count } of this.free) longest = Math.max(longest, count);
    return longest;
  }

  /** The first row of `count` free ones in a row, or null when there is no such range. */
  take(count: number): number | null {
    const at = this.free.findIndex((range) => range.count >= count);
    const range = this.free[at];
    if (range === undefined) return null;
    const { start } = range;
    range.start += count;
    range.count -= count;
    if (range.count === 0) this.free.splice(at, 1);
    this.used += count;
    return start;
  }

  give(start: number, count: number): void {
    let at = this.free.findIndex((range) => range.start > start);
    if (at < 0) at = this.free.length;
    const before = this.free[at - 1];
    const after = this.free[at];
    const overlaps =
      (before !== undefined && before.start + before.count > start) ||
      (after !== undefined && start + count > after.start);
    if (overlaps || start + count > this.capacity) throw new Error('range pool: rows were given back twice');
    this.used -= count;
    const joinsBefore = before !== undefined && before.start + before.count === start;
    const joinsAfter = after !== undefined && start + count === after.start;
    if (joinsBefore && joinsAfter) {
      before.count += count + after.count;
      this.free.splice(at, 1);
    } else if (joinsBefore) before.count += count;
    else if (joinsAfter) {
      after.start = start;
      after.count += count;
    } else this.free.splice(at, 0, { start, count });
  }
}
