// `performance.now` is the quicker call, but starts anew in each worker: one reading of the process's clock tells by how much.
const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** Milliseconds on the one monotonic clock that all threads of the process share, to a few microseconds. */
export function monotonicMs(): number {
  return offsetMs + performance.now();
}
