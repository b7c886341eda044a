/** The loop over scoring models only, and what it reports of them: the one place in tests that knows how a loop is put together. */
import { EngineLoop, type LoopDeps } from '../../src/engine/loop.js';
import type { EngineTelemetry, StageTelemetry } from '../../src/engine/protocol.js';
import { type ScoreModel, ScoreStage } from '../../src/engine/score-stage.js';
import type { SchedulerLimits } from '../../src/scheduler/scheduler.js';

export type ScoreLoopDeps = Omit<LoopDeps, 'stages'> & {
  readonly models: readonly ScoreModel[];
  readonly limits: SchedulerLimits;
};

export function scoreLoop({ models, limits, ...deps }: ScoreLoopDeps): EngineLoop {
  return new EngineLoop({ ...deps, stages: models.map((model) => new ScoreStage(model, limits)) });
}

export function scoreCounts(telemetry: EngineTelemetry): readonly StageTelemetry[] {
  return telemetry.stages;
}

export const EMPTY_TELEMETRY: EngineTelemetry = {
  stages: [],
  lanesWaiting: 0,
  lanesRunning: 0,
  slotsUsed: 0,
  slotsTotal: 0,
  cacheRowsUsed: 0,
  cacheRowsTotal: 0,
};
