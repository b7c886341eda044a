/**
 * The depth-shared cache of a decoder. Under `freeze` a position's key and value at depth t are those of depth min(t, N+1), so it keeps
 * N+1 rows of the pool and not one a step; later positions at any depth find theirs there.
 *
 * Positions form a tree: hypotheses that share a prefix share its nodes, and with them the rows. A node is never written
 * again once its position has been renewed, so forking a beam copies nothing; the last hypothesis to leave gives the rows back.
 *
 *   <s> ── Ein ── Mann ── mit          rows of "Mann" (halted at N = 2):  depth 1, depth 2, depth 3 = all deeper ones
 *           └──── Kerl                 a query at step 5 sees "Mann" by its third row
 */

export class PrefixNode {
  /** Cache rows of depth 1, 2, ...; N+1 of them in the end, or max_steps where N + 1 would exceed it. */
  readonly rows: number[] = [];
  /** N, once the position has halted. */
  depth = 0;
  private holders = 1;

  constructor(
    readonly parent: PrefixNode | null,
    readonly position: number,
  ) {
    parent?.hold();
  }

  hold(): void {
    this.holders += 1;
  }

  /** Gives up one hold; rows of this node and of ancestors that nobody holds any more go back to the pool. */
  release(pool: CachePool): void {
    this.holders -= 1;
    if (this.holders > 0) return;
    pool.give(this.rows);
    this.parent?.release(pool);
  }

  /** Writes the rows that a query of this node at `step` attends over, in order of position, to `out`; position + 1 of them. */
  keyRows(step: number, out: Int32Array): void {
    for (let node: PrefixNode | null = this; node !== null; node = node.parent) {
      const { rows } = node;
      out[node.position] = rows[Math.min(step, rows.length) - 1] as number;
    }
  }
}

/**
 * Rows of the cache pool. A sentence is let in with a promise of all the rows it could ever need, so that a full pool makes the
 * next one wait and never stops one half way; what a position turns out not to need is promised to others at once.
 */
export class CachePool {
  private readonly free: number[];
  private promised = 0;

  constructor(readonly capacity: number) {
    this.free = Array.from({ length: capacity }, (_, i) => capacity - 1 - i);
  }

  get used(): number {
    return this.capacity - this.free.length;
  }

  /** Rows that are neither in use nor promised. */
  get unpromised(): number {
    return this.free.length - this.promised;
  }

  /** Changes what is promised by `rows`, which may be negative. The caller has checked `unpromised`. */
  promise(rows: number): void {
    if (rows > this.unpromised) throw new Error(`cache pool: ${rows} rows promised of ${this.unpromised}`);
    this.promised += rows;
  }

  /** Takes one of the promised rows. */
  take(): number {
    const row = this.promised > 0 ? this.free.pop() : undefined;
    if (row === undefined) throw new Error('cache pool: a row was taken that was not promised');
    this.promised -= 1;
    return row;
  }

  give(rows: readonly number[]): void {
    for (let i = 0; i < rows.length; i++) this.free.push(rows[i] as number);
    if (this.free.length > this.capacity) throw new Error('cache pool: a row was given back twice');
  }
}
