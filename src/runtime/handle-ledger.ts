/**
 * The native objects of an engine thread, written down where its successor can read them. A thread that is killed (out of memory, or
 * because a step hung) runs no `finally`: its sessions would stay in the process, 30 MB each time. The thread that follows releases
 * what its predecessor left; no call can be in flight then, because a thread ends only between two calls.
 *
 *   [count][kind, address][kind, address] ...      in memory that both threads see
 */
export const HANDLE_KINDS = { env: 1, memory: 2, session: 3, binding: 4 } as const;
export type HandleKind = keyof typeof HANDLE_KINDS;

/** Two a graph and two a runtime; a package has three to six graphs. */
const HANDLES_MAX = 4096;

export interface Handle {
  readonly kind: HandleKind;
  readonly address: bigint;
}

export class HandleLedger {
  private readonly cells: BigUint64Array;

  static memory(): SharedArrayBuffer {
    return new SharedArrayBuffer(8 * (1 + 2 * HANDLES_MAX));
  }

  constructor(memory: SharedArrayBuffer) {
    this.cells = new BigUint64Array(memory);
  }

  private get count(): number {
    return Number(this.cells[0]);
  }

  /** What is past the limit is not written down: it would only be lost if this thread is killed. */
  add(kind: HandleKind, address: bigint): void {
    const { count } = this;
    if (count === HANDLES_MAX) return;
    this.cells.set([BigInt(HANDLE_KINDS[kind]), address], 1 + 2 * count);
    this.cells[0] = BigInt(count + 1);
  }

  remove(address: bigint): void {
    const { count } = this;
    for (let i = count - 1; i >= 0; i--) {
      if (this.cells[2 + 2 * i] !== address) continue;
      this.cells.copyWithin(1 + 2 * i, 3 + 2 * i, 1 + 2 * count);
      this.cells[0] = BigInt(count - 1);
      return;
    }
  }

  /** The last one first: what was made later may hold what was made before. Empties the ledger. */
  takeAll(): Handle[] {
    const handles = Array.from({ length: this.count }, (_, i): Handle => {
      const code = Number(this.cells[1 + 2 * i]);
      const kind = (Object.keys(HANDLE_KINDS) as HandleKind[]).find((name) => HANDLE_KINDS[name] === code);
      if (kind === undefined) throw new Error(`the ledger of native handles holds the kind ${code}`);
      return { kind, address: this.cells[2 + 2 * i] as bigint };
    });
    this.cells[0] = 0n;
    return handles.reverse();
  }
}
