/**
 * Server-sent events with a reader at its own pace. The engine may be ahead of it; what it has not read yet is queued:
 *
 *   add() ──> queue of references ──read()──> text of one event ──> socket
 *
 * A queued event refers to what it tells of, and becomes text only when the reader takes it.
 */
import { Readable } from 'node:stream';

export class EventStream<Event> {
  readonly stream: Readable;
  /** Resolves when there is something to send: until then the request can still be answered with a status of its own. */
  readonly begun: Promise<void>;
  #begin: () => void = () => {};
  readonly #queue: { readonly event: Event; readonly taken: () => void }[] = [];
  /** The stream has room: until `push` says no, and again when it calls `read`. */
  #wanted = true;
  #ended = false;

  /** @param write the text of an event, made when it is taken */
  constructor(private readonly write: (event: Event) => string) {
    this.begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    this.stream = new Readable({
      read: () => {
        this.#wanted = true;
        this.#flush();
      },
      // Whoever waits for an event to be taken must not wait for a reader that has gone.
      destroy: (error, callback) => {
        for (const { taken } of this.#queue.splice(0)) taken();
        callback(error);
      },
    });
  }

  /** Events that wait for the reader. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** Resolves when the reader takes it, or has gone. After the last one, events go nowhere. */
  add(event: Event, last = false): Promise<void> {
    if (this.stream.destroyed || this.#ended) return Promise.resolve();
    const taken = new Promise<void>((resolve) => {
      this.#queue.push({ event, taken: resolve });
    });
    this.#ended = last;
    this.#begin();
    this.#flush();
    return taken;
  }

  #flush(): void {
    while (this.#wanted) {
      const next = this.#queue.shift();
      if (next === undefined) break;
      this.#wanted = this.stream.push(this.write(next.event));
      next.taken();
    }
    if (this.#ended && this.#queue.length === 0) this.stream.push(null);
  }
}

/** JSON has no line breaks of its own, so one line is one event. */
export function eventLine(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

/** What tells a client that the stream is whole. */
export const DONE_LINE = 'data: [DONE]\n\n';
