/**
 * Work that is asked for again before it is done: a slider that moves, a text that is typed. It starts when there was a moment's
 * rest, and what was asked before is given up, on the server as well.
 */
export class Latest {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = new AbortController();

  /** @param work must give up when `signal` aborts */
  constructor(private readonly work: (signal: AbortSignal) => Promise<void>) {}

  /** @param delayMs to wait for rest */
  ask(delayMs = 0): void {
    this.cancel();
    const { signal } = this.#running;
    this.#timer = setTimeout(() => void this.work(signal), delayMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
    this.#running.abort();
    this.#running = new AbortController();
  }
}

/** Rest that a slider needs: short enough to feel immediate. */
export const SLIDER_REST_MS = 80;
