/**
 * Time for simulations: what is due happens in order, and between two events nothing passes. The clock that is read can jump, as that
 * of a machine that slept: what was set before keeps the time that was left.
 */
export class Timeline {
  private elapsedMs = 0;
  private offsetMs = 0;
  private nextId = 1;
  private readonly events: { readonly dueMs: number; readonly id: number; readonly fire: () => void }[] = [];

  /** What clocks say. */
  get nowMs(): number {
    return this.elapsedMs + this.offsetMs;
  }

  get pending(): number {
    return this.events.length;
  }

  after(ms: number, fire: () => void): () => void {
    const id = this.nextId++;
    this.events.push({ dueMs: this.elapsedMs + ms, id, fire });
    return () => {
      const at = this.events.findIndex((event) => event.id === id);
      if (at >= 0) this.events.splice(at, 1);
    };
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.after(ms, resolve);
    });
  }

  jump(ms: number): void {
    this.offsetMs += ms;
  }

  /** Lets the next event happen; false: there is none. */
  step(): boolean {
    const [first] = this.events.sort((a, b) => a.dueMs - b.dueMs || a.id - b.id);
    if (first === undefined) return false;
    this.events.shift();
    this.elapsedMs = Math.max(this.elapsedMs, first.dueMs);
    first.fire();
    return true;
  }

  /** Lets all happen that is due until the clock says `nowMs`. */
  passTo(nowMs: number): void {
    const untilMs = nowMs - this.offsetMs;
    while (this.events.some(({ dueMs }) => dueMs <= untilMs)) this.step();
    this.elapsedMs = Math.max(this.elapsedMs, untilMs);
  }
}
