/** Runs windows through the real scheduler and a family, without the engine's loop: what a batch computes, and nothing else. */
import type { Budget, ScoreWindowResult } from '../../src/engine/protocol.js';
import type { Family } from '../../src/families/universal-transformer.js';
import { Scheduler, type SchedulerLimits } from '../../src/scheduler/scheduler.js';

export interface Window {
  readonly ids: Int32Array;
  readonly budget: Budget;
  readonly scoreFrom?: number;
  readonly topCount?: number;
  /** Steps run before this window is submitted. */
  readonly submitBefore?: number;
}

export const MODEL_BUDGET: Budget = { maxSteps: 8, minSteps: 1, threshold: 0.99 };
export const ROOMY: SchedulerLimits = { rowsMax: 1024, lanesMax: 64, slotsMax: 4096, finishRowsMax: 512 };

/** Scores all windows in one batch under `limits`; results in their order. */
export async function scoreWindows(
  family: Family,
  windows: readonly Window[],
  limits: SchedulerLimits = ROOMY,
): Promise<ScoreWindowResult[]> {
  const scheduler = new Scheduler(limits, MODEL_BUDGET.maxSteps);
  const results: ScoreWindowResult[] = new Array(windows.length);
  const submitted = new Set<number>();
  for (let turn = 0; ; turn++) {
    const idle = scheduler.idle;
    windows.forEach((window, jobId) => {
      if (submitted.has(jobId) || (!idle && (window.submitBefore ?? 0) > turn)) return;
      submitted.add(jobId);
      const { ids, budget, scoreFrom = 0, topCount = 0 } = window;
      const lane = { jobId, index: 0, ids, scoreFrom, topCount, budget };
      scheduler.submit(jobId, [lane], { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY });
    });
    const plan = scheduler.schedule();
    if (plan === null) break;
    if (plan.kind === 'advance') {
      scheduler.applyAdvance(plan, await family.advance(plan));
      continue;
    }
    const finished = await family.finish(plan);
    plan.lanes.forEach(({ request }, i) => {
      results[request.jobId] = finished[i] as ScoreWindowResult;
    });
    scheduler.applyFinish(plan);
  }
  if (submitted.size !== windows.length || scheduler.slotsUsed !== 0) throw new Error('a window was lost');
  return results;
}

export async function scoreAlone(family: Family, window: Window): Promise<ScoreWindowResult> {
  const [result] = await scoreWindows(family, [window]);
  return result as ScoreWindowResult;
}
