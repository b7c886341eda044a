/** Milliseconds on the one monotonic clock that all threads of the process share (`performance.now` starts anew per worker). */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
