/**
 * Work that is asked for again before it is done: a slider that moves, a text that is typed. It starts when there was a moment's
 * rest, and what was asked before is given up, on the server as well.
 */
export class Latest {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = new AbortController();
  #pending = false;
  #interrupted = false;

  /** @param work must give up when `signal` aborts, and may not reject */
  constructor(private readonly work: (signal: AbortSignal) => Promise<void>) {}

  /** @param delayMs to wait for rest */
  ask(delayMs = 0): void {
    this.cancel();
    this.#pending = true;
    const { signal } = this.#running;
    this.#timer = setTimeout(async () => {
      await this.work(signal);
      if (!signal.aborted) this.#pending = false;
    }, delayMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
    this.#running.abort();
    this.#running = new AbortController();
    this.#pending = false;
    this.#interrupted = false;
  }

  /** The view is left: what is not done is given up, and `resume` asks for it again. */
  interrupt(): void {
    const interrupted = this.#pending;
    this.cancel();
    this.#interrupted = interrupted;
  }

  resume(): void {
    if (this.#interrupted) this.ask();
  }
}

/** Rest that a slider needs: short enough to feel immediate. */
export const SLIDER_REST_MS = 80;
