import { monotonicMs } from '../clock.js';
import type { ErrorCode } from '../errors.js';
import type { Release } from './admission.js';

export type Outcome = 'OK' | ErrorCode;

/**
 * The one exit of a request. Whatever ends it (reply, error, deadline, drain, a client that hangs up), `finish` runs once:
 * it gives back what the request holds and tells the engine when nobody waits for the result any more.
 */
export class RequestExit {
  readonly startedAtMs = monotonicMs();
  /** What the reply says; the error handler sets it. */
  outcome: Outcome = 'OK';
  /** What its phases took, once that is known. */
  phases: { readonly tokenizeMs: number; readonly queueMs: number; readonly computeMs: number } | null = null;
  /** Whose request it is, for fairness; whoever checks keys sets it. */
  tenant = '';
  readonly #abort = new AbortController();
  readonly #releases: Release[] = [];
  #finished = false;

  /** Aborts when the client hangs up before its reply was written. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Has `release` run at the exit: at once if the request has already left while it was being admitted. */
  hold(release: Release): void {
    if (this.#finished) release();
    else this.#releases.push(release);
  }

  /** @param replied whether the whole reply was handed to the connection */
  finish(replied: boolean): void {
    if (this.#finished) return;
    this.#finished = true;
    if (!replied) {
      this.outcome = 'CLIENT_CLOSED';
      this.#abort.abort();
    }
    for (const release of this.#releases.splice(0)) release();
  }
}
