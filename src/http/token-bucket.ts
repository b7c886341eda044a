/**
 * A rate limit: a bucket that holds `perMinute` permits and fills at that rate. Whoever was quiet may send a minute's worth at once.
 * Libraries for this keep a timer or a clock of their own; here the caller has the clock, as everywhere.
 */
export class TokenBucket {
  private permits: number;
  private atMs: number;

  /** @param perMinute above 0 */
  constructor(
    readonly perMinute: number,
    nowMs: number,
  ) {
    this.permits = perMinute;
    this.atMs = nowMs;
  }

  /** Takes a permit. @returns 0, or the milliseconds until there is one */
  take(nowMs: number): number {
    const perMs = this.perMinute / 60_000;
    this.permits = Math.min(this.perMinute, this.permits + Math.max(0, nowMs - this.atMs) * perMs);
    this.atMs = nowMs;
    // A permit that is short of one by rounding is one.
    if (this.permits >= 1 - 1e-9) {
      this.permits -= 1;
      return 0;
    }
    return (1 - this.permits) / perMs;
  }
}
