interface FreeRange {
  start: number;
  count: number;
}

/** Ranges of rows of the device pools: a lane's positions lie next to each other, so that its keys need no list. First fit, neighbours merged. */
export class RangePool {
  /** Free ranges, ascending and never touching. */
  private readonly free: FreeRange[];
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
    const { free } = this;
    let at = 0;
    while (at < free.length && (free[at] as FreeRange).count < count) at += 1;
    const range = free[at];
    if (range === undefined) return null;
    const { start } = range;
    range.start += count;
    range.count -= count;
    if (range.count === 0) free.splice(at, 1);
    this.used += count;
    return start;
  }

  /** Index of the first free range that starts behind a row. */
  private firstBehind(row: number): number {
    let low = 0;
    let high = this.free.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.free[middle] as FreeRange).start > row) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  give(start: number, count: number): void {
    const at = this.firstBehind(start);
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
