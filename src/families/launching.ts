/** What a family whose rows stay on a device does for the engine: a launch is enqueued, and its result fetched later. */
import type { ResidentPlan, RowRange, StepProgress } from '../scheduler/resident-scheduler.js';

export interface Launch<Finished> {
  /** One a lane of the plan's `finish`, in order. */
  readonly finished: readonly Finished[];
  readonly progress: readonly StepProgress[];
  /** Milliseconds of the device. */
  readonly deviceMs: number;
}

export interface Launching<Finished> {
  enqueue(plan: ResidentPlan): void;
  /** Whether the launch has run. */
  passed(): boolean;
  /** Blocks until the launch has run. Valid until the next `enqueue`. */
  fetch(plan: ResidentPlan): Launch<Finished>;
  drop(ranges: readonly RowRange[]): void;
  takePadded(): number;
}
