/** Lanes that run on a device in the same launches: one launch is under way while the host does something else. */
import type { Launching } from '../families/launching.js';
import type { ResidentLane, ResidentPlan, ResidentScheduler } from '../scheduler/resident-scheduler.js';
import type { StageCounter } from './stage.js';

export class LaunchCohort<Finished> {
  /** The launch under way. */
  private plan: ResidentPlan | null = null;
  /** Jobs aborted since: their rows can only be dropped between launches. */
  private aborted: number[] = [];

  constructor(
    readonly scheduler: ResidentScheduler,
    private readonly family: Launching<Finished>,
    private readonly counter: StageCounter,
  ) {}

  abort(jobId: number): void {
    this.aborted.push(jobId);
    if (this.plan === null) this.drop();
  }

  private drop(): void {
    for (const jobId of this.aborted) this.family.drop(this.scheduler.abort(jobId));
    this.aborted = [];
  }

  /** Whether a turn would not wait. */
  get ready(): boolean {
    return this.plan === null || this.family.passed();
  }

  /**
   * Reads the launch under way, hands what ended to `settle`, and enqueues the next.
   * @returns the jobs of which something was admitted; null: there was nothing to do
   */
  turn(now: () => number, settle: (lane: ResidentLane, finished: Finished) => void): number[] | null {
    const { scheduler, family, counter } = this;
    const startMs = now();
    let waitedMs = 0;
    let deviceMs = 0;
    const done = this.plan;
    if (done !== null) {
      const launch = family.fetch(done);
      waitedMs = now() - startMs;
      deviceMs = launch.deviceMs;
      scheduler.apply(done, launch.progress);
      this.plan = null;
      done.finish.forEach((lane, i) => {
        settle(lane, launch.finished[i] as Finished);
      });
      let active = done.activeRows;
      for (const { activeRows, renewedRows } of launch.progress) {
        counter.step(active, renewedRows, { keysUseful: 0, keysComputed: 0 });
        active = activeRows;
      }
    }
    this.drop();
    const plan = scheduler.schedule();
    if (plan !== null) {
      family.enqueue(plan);
      this.plan = plan;
    }
    if (done === null && plan === null) return null;
    counter.padded(family.takePadded());
    counter.time(deviceMs, now() - startMs - waitedMs);
    return plan?.begin.map(({ request }) => request.jobId) ?? [];
  }
}
