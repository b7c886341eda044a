/**
 * Shares the main thread between long computations and everything else. Work comes as generators that yield several times a
 * millisecond; together they get at most `sliceMs` of each turn of the event loop, in rotation, and the rest waits for the next
 * turn. The limit is on the sum: a hundred clients with long texts lengthen a turn no more than one does. Work that fits in
 * what is left of the turn finishes at once, so short texts never wait for a timer.
 */
import { monotonicMs } from '../clock.js';

/** One computation under way and how its promise ends. */
interface Task {
  /** Advances once; true when finished, with the promise settled. */
  step(): boolean;
}

export class TimeSlicer {
  readonly #waiting: Task[] = [];
  #sliceEndsAtMs = 0;
  #inTurn = false;

  constructor(
    private readonly sliceMs: number,
    private readonly now: () => number = monotonicMs,
    private readonly nextTurn: (callback: () => void) => void = setImmediate,
  ) {}

  run<T>(work: Generator<void, T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        step() {
          try {
            const step = work.next();
            if (step.done) resolve(step.value);
            return step.done === true;
          } catch (error) {
            reject(error);
            return true;
          }
        },
      });
      if (!this.#inTurn) this.#openTurn();
      // Others wait: the newcomer queues behind them, or a stream of newcomers would starve them.
      if (this.#waiting.length === 1) this.#work();
    });
  }

  #openTurn(): void {
    this.#inTurn = true;
    this.#sliceEndsAtMs = this.now() + this.sliceMs;
    this.nextTurn(() => {
      this.#inTurn = false;
      if (this.#waiting.length === 0) return;
      this.#openTurn();
      this.#work();
    });
  }

  #work(): void {
    while (this.now() < this.#sliceEndsAtMs) {
      const task = this.#waiting.shift();
      if (task === undefined) return;
      let finished = task.step();
      while (!finished && this.now() < this.#sliceEndsAtMs) finished = task.step();
      if (!finished) this.#waiting.push(task);
    }
  }
}
