/**
 * How many steps a request may take that has agreed to fewer under pressure. Depths are learnt from what halts, so that the answer
 * says what a cap would save: most positions halt early, and a cap above them saves nothing.
 */
import type { EngineTelemetry } from './protocol.js';

/** Positions after which what was learnt counts for half. */
const POSITIONS_HALF = 20_000;

/** Share of the positions of a model that halt at each step. */
export class DepthBook {
  private readonly counts = new Map<string, number[]>();

  observe({ stages }: EngineTelemetry): void {
    for (const { model, haltedAtStep } of stages) {
      const positions = haltedAtStep.reduce((sum, count) => sum + count, 0);
      if (positions === 0) continue;
      const keep = 0.5 ** (positions / POSITIONS_HALF);
      const known = this.counts.get(model) ?? [];
      const length = Math.max(known.length, haltedAtStep.length);
      const faded = Array.from({ length }, (_, step) => (known[step] ?? 0) * keep + (haltedAtStep[step] ?? 0));
      this.counts.set(model, faded);
    }
  }

  /** Mean depth under a cap; before anything was learnt, the cap. */
  meanUnder(model: string, cap: number): number {
    const counts = this.counts.get(model) ?? [];
    const positions = counts.reduce((sum, count) => sum + count, 0);
    if (positions === 0) return cap;
    return counts.reduce((sum, count, step) => sum + count * Math.min(step, cap), 0) / positions;
  }
}

export interface Pressure {
  /** Predicted until it begins, and of itself at `maxSteps`; with what predictions are usually wrong by. */
  readonly waitMs: number;
  readonly aloneMs: number;
  readonly targetMs: number;
}

/**
 * The most steps with which the request is predicted to meet the target; at least the floor, whatever the pressure. Time is taken as
 * proportional to the mean depth.
 */
export function grantedSteps(
  { waitMs, aloneMs, targetMs }: Pressure,
  floor: number,
  maxSteps: number,
  meanUnder: (cap: number) => number,
): number {
  const whole = meanUnder(maxSteps);
  for (let steps = maxSteps; steps > floor; steps--) {
    // Those who wait are served faster too when all of them take fewer steps.
    if (((waitMs + aloneMs) * meanUnder(steps)) / whole <= targetMs) return steps;
  }
  return Math.min(floor, maxSteps);
}
