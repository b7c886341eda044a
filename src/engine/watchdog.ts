/**
 * Notices an engine that has work and gives no sign of life. The loop reports at least every TELEMETRY_INTERVAL_MS while it works, between
 * two steps; so silence means that a step hangs.
 *
 * The clock may jump: a laptop that slept, a virtual machine that was moved. Then the thread has had no time either. A timer that fires
 * much later than it was set for says so, and the silence is counted anew.
 */
import type { Timers } from './timers.js';

/** A timer later than this share of the limit was not late by chance. */
const JUMP_SHARE = 0.5;

export class Watchdog {
  private heardAtMs: number;
  private cancel: (() => void) | null = null;

  /** @param onStall called once for each silence of `limitMs` */
  constructor(
    private readonly limitMs: number,
    private readonly now: () => number,
    private readonly timers: Timers,
    private readonly onStall: () => void,
  ) {
    this.heardAtMs = now();
  }

  heard(): void {
    this.heardAtMs = this.now();
  }

  /** There is work from now on. */
  watch(): void {
    if (this.cancel !== null) return;
    this.heard();
    this.arm();
  }

  /** There is none any more. */
  rest(): void {
    this.cancel?.();
    this.cancel = null;
  }

  private arm(): void {
    const dueAtMs = this.heardAtMs + this.limitMs;
    const waitMs = Math.max(1, dueAtMs - this.now());
    const setAtMs = this.now();
    this.cancel = this.timers(waitMs, () => {
      const overMs = this.now() - setAtMs - waitMs;
      if (overMs > JUMP_SHARE * this.limitMs || overMs < -waitMs) this.heard();
      if (this.now() - this.heardAtMs < this.limitMs) {
        this.arm();
        return;
      }
      this.cancel = null;
      this.onStall();
    });
  }
}
