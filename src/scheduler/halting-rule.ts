import type { Budget } from '../engine/protocol.js';

/** What a budget says of a step: the last one stops whatever runs, and before min_steps nothing halts. */
export function haltingRule(step: number, { maxSteps, minSteps }: Budget): { isLast: boolean; isHeld: boolean } {
  return { isLast: step >= maxSteps, isHeld: step < minSteps };
}
