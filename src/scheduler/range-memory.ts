/** Rows of a memory pool that lie next to each other: what is read of a sentence needs no list, where it begins is enough. */
import { RangePool } from './range-pool.js';
import type { MemoryRows } from './resident-scheduler.js';

export class RangeMemory implements MemoryRows {
  private readonly pool: RangePool;

  constructor(capacity: number) {
    this.pool = new RangePool(capacity);
  }

  get used(): number {
    return this.pool.rowsUsed;
  }

  /** The most that one `take` can have: free rows elsewhere are of no use to it. */
  get available(): number {
    return this.pool.longest;
  }

  take(count: number): Int32Array {
    const start = this.pool.take(count);
    if (start === null) throw new Error(`memory rows: ${count} asked, ${this.available} lie together`);
    const rows = new Int32Array(count);
    for (let i = 0; i < count; i++) rows[i] = start + i;
    return rows;
  }

  give(rows: Int32Array): void {
    const [start] = rows;
    if (start !== undefined) this.pool.give(start, rows.length);
  }
}
