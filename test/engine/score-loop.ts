/** The loop over scoring models only, and what it reports of them: the one place in tests that knows how a loop is put together. */
import { EngineLoop, type LoopDeps, type LoopModel } from '../../src/engine/loop.js';
import type { EngineTelemetry, ModelTelemetry } from '../../src/engine/protocol.js';
import type { SchedulerLimits } from '../../src/scheduler/scheduler.js';

export type ScoreLoopDeps = Omit<LoopDeps, 'models' | 'limits'> & {
  readonly models: readonly LoopModel[];
  readonly limits: SchedulerLimits;
};

export function scoreLoop(deps: ScoreLoopDeps): EngineLoop {
  return new EngineLoop(deps);
}

export function scoreCounts(telemetry: EngineTelemetry): readonly ModelTelemetry[] {
  return telemetry.models;
}

export const EMPTY_TELEMETRY: EngineTelemetry = {
  models: [],
  lanesWaiting: 0,
  lanesRunning: 0,
  slotsUsed: 0,
  slotsTotal: 0,
};
