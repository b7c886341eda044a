/**
 * Byte-pair merging (Sennrich et al. 2016) over token ids: starting from bytes, the adjacent pair with the lowest rank is
 * merged first, the leftmost of equals first, until no known pair is left.
 *
 * The symbols are a linked list over the piece's bytes, the candidate pairs a binary heap ordered by (rank, position), so a
 * piece of n bytes costs O(n log n). A merge leaves its neighbours' old entries in the heap; they are recognised when they
 * come up, because the pair at that position no longer has that rank.
 *
 *     bytes    h  e  l  l  o        heap: (rank, left position)
 *     ids      he .  l  l  o        next: 0 -> 2 -> 3 -> 4
 */

/** A merge of two tokens: how early it happens and what it makes. */
export interface PairMerge {
  readonly left: number;
  readonly right: number;
  readonly merged: number;
}

/** Heap operations between two yields: below a tenth of a millisecond. */
const OPERATIONS_PER_YIELD = 512;
/** Heap entries are `rank * POSITION_RANGE + position` in one double, exact while ranks stay below 2^22. */
const POSITION_RANGE = 2 ** 31;
const NONE = -1;

/**
 * The working memory of one merge, 28 bytes for each byte of the piece. One instance serves many pieces one after the other,
 * never two at once.
 */
class Workspace {
  ids = new Int32Array(0);
  next = new Int32Array(0);
  previous = new Int32Array(0);
  heap = new Float64Array(0);
  heapSize = 0;

  /** A merge removes one pair and adds at most two, so n bytes never have more than 2n entries waiting. */
  reserve(bytes: number): void {
    this.heapSize = 0;
    if (this.ids.length >= bytes) return;
    const capacity = Math.max(64, bytes);
    this.ids = new Int32Array(capacity);
    this.next = new Int32Array(capacity);
    this.previous = new Int32Array(capacity);
    this.heap = new Float64Array(2 * capacity);
  }

  push(entry: number): void {
    const { heap } = this;
    let at = this.heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const parentEntry = heap[parent] as number;
      if (parentEntry <= entry) break;
      heap[at] = parentEntry;
      at = parent;
    }
    heap[at] = entry;
  }

  pop(): number {
    const { heap } = this;
    const top = heap[0] as number;
    const moved = heap[--this.heapSize] as number;
    const size = this.heapSize;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && (heap[child + 1] as number) < (heap[child] as number)) child++;
      const childEntry = heap[child] as number;
      if (childEntry >= moved) break;
      heap[at] = childEntry;
      at = child;
    }
    heap[at] = moved;
    return top;
  }
}

export class BytePairs {
  /** `left * vocabularySize + right` -> rank. */
  readonly #ranks = new Map<number, number>();
  readonly #merged: Int32Array;
  readonly #shared = new Workspace();

  /** `byteIds[b]` is the token of the single byte b; `merges` are in order of rank. */
  constructor(
    private readonly vocabularySize: number,
    private readonly byteIds: Int32Array,
    merges: readonly PairMerge[],
  ) {
    this.#merged = Int32Array.from(merges, (merge) => merge.merged);
    merges.forEach((merge, rank) => {
      const pair = merge.left * vocabularySize + merge.right;
      // The first of two equal merges wins; a second could never apply.
      if (!this.#ranks.has(pair)) this.#ranks.set(pair, rank);
    });
  }

  /** Merges a short piece at once. */
  merge(bytes: Uint8Array): Int32Array {
    const steps = this.#run(bytes, this.#shared);
    for (;;) {
      const step = steps.next();
      if (step.done) return step.value;
    }
  }

  /** Merges a piece of any length, yielding several times a millisecond so that the caller can stop in between. */
  mergeSteps(bytes: Uint8Array): Generator<void, Int32Array> {
    return this.#run(bytes, new Workspace());
  }

  *#run(bytes: Uint8Array, space: Workspace): Generator<void, Int32Array> {
    space.reserve(bytes.length);
    const { ids, next, previous } = space;
    let operations = 0;
    for (let i = 0; i < bytes.length; i++) {
      ids[i] = this.byteIds[bytes[i] as number] as number;
      next[i] = i + 1 < bytes.length ? i + 1 : NONE;
      previous[i] = i - 1;
      if (i > 0) this.#offer(space, i - 1, i);
      if (++operations % OPERATIONS_PER_YIELD === 0) yield;
    }
    while (space.heapSize > 0) {
      if (++operations % OPERATIONS_PER_YIELD === 0) yield;
      const entry = space.pop();
      const position = entry % POSITION_RANGE;
      const rank = (entry - position) / POSITION_RANGE;
      const right = next[position] as number;
      // A swallowed symbol has id NONE, which is in no pair.
      if (right === NONE || this.#rankOf(space, position, right) !== rank) continue;
      ids[position] = this.#merged[rank] as number;
      ids[right] = NONE;
      const after = next[right] as number;
      next[position] = after;
      const before = previous[position] as number;
      if (after !== NONE) {
        previous[after] = position;
        this.#offer(space, position, after);
      }
      if (before !== NONE) this.#offer(space, before, position);
    }
    // Packed in place: the k-th symbol left never stands before position k.
    let count = 0;
    for (let at = bytes.length > 0 ? 0 : NONE; at !== NONE; at = next[at] as number) {
      ids[count++] = ids[at] as number;
      if (++operations % OPERATIONS_PER_YIELD === 0) yield;
    }
    return ids.slice(0, count);
  }

  #offer(space: Workspace, left: number, right: number): void {
    const rank = this.#rankOf(space, left, right);
    if (rank !== undefined) space.push(rank * POSITION_RANGE + left);
  }

  #rankOf({ ids }: Workspace, left: number, right: number): number | undefined {
    const leftId = ids[left] as number;
    return leftId === NONE ? undefined : this.#ranks.get(leftId * this.vocabularySize + (ids[right] as number));
  }
}
