/** `"quality": "adaptive"`: under pressure the server may give a request fewer steps, and says so. */
import type { Config } from '../config.js';
import type { Engine, Foreseen } from '../engine/engine.js';
import type { Budget } from '../engine/protocol.js';

export type Quality = 'full' | 'adaptive';

/** What a reply says of it. */
export interface Granted {
  readonly max_steps: number;
  readonly lowered: boolean;
}

/**
 * The steps allowed to a request that has agreed to fewer; null when it has not. Never fewer than the floor, than its own `min_steps`,
 * or more than its own `max_steps`.
 */
export function grantQuality(
  quality: Quality,
  engine: Pick<Engine, 'grantSteps'>,
  foreseen: Foreseen,
  budget: Budget,
  { latencyTargetMs, qualityStepsMin }: Pick<Config, 'latencyTargetMs' | 'qualityStepsMin'>,
): Granted | null {
  if (quality === 'full') return null;
  const { minSteps, maxSteps } = budget;
  if (latencyTargetMs === 0) return { max_steps: maxSteps, lowered: false };
  const floor = Math.min(maxSteps, Math.max(minSteps, qualityStepsMin));
  const steps = engine.grantSteps(foreseen, budget, { targetMs: latencyTargetMs, floor });
  return { max_steps: steps, lowered: steps < maxSteps };
}

/** The budget with the steps granted, if any were asked for. */
export function withGranted(budget: Budget, granted: Granted | null): Budget {
  if (granted === null) return budget;
  return { ...budget, maxSteps: Math.max(budget.minSteps, Math.min(budget.maxSteps, granted.max_steps)) };
}
