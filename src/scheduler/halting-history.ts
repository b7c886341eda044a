/** How positions of a model have halted so far, with more weight on what was lately: the forecast of `resident-scheduler.ts`. */
import type { HaltingForecast } from './resident-scheduler.js';

/** Positions after which the past counts half. */
const HALF_LIFE_POSITIONS = 20_000;

export class HaltingHistory implements HaltingForecast {
  private readonly atStep: Float64Array;
  private total = 0;

  constructor(maxSteps: number) {
    this.atStep = new Float64Array(maxSteps + 2);
  }

  add(depths: Uint8Array): void {
    for (let i = 0; i < depths.length; i++) {
      const depth = depths[i] as number;
      this.atStep[depth] = (this.atStep[depth] as number) + 1;
    }
    this.total += depths.length;
    if (this.total < HALF_LIFE_POSITIONS) return;
    for (let step = 0; step < this.atStep.length; step++) this.atStep[step] = (this.atStep[step] as number) / 2;
    this.total /= 2;
  }

  /** Before anything has halted every position may: 1. */
  hazard(step: number): number {
    let deeper = 0;
    for (let later = step; later < this.atStep.length; later++) deeper += this.atStep[later] as number;
    return deeper === 0 ? 1 : (this.atStep[step] as number) / deeper;
  }
}
