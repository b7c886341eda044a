/**
 * The device of `resident-scheduler.ts` without weights: the table of running rows and the rows to renew as export/cuda/kernels.h keeps them, halting
 * by `halting-oracle.ts`. Whatever is written goes to a slot that is marked with its lane, so that a lane whose slots were given away too early is seen.
 */
import assert from 'node:assert/strict';
import type {
  ResidentLane,
  ResidentLimits,
  ResidentPlan,
  RowRange,
  StepProgress,
} from '../src/scheduler/resident-scheduler.js';
import { type Replayed, replay } from './halting-oracle.js';

interface Row {
  readonly lane: ResidentLane;
  readonly position: number;
  step: number;
}

export class SimulatedRows {
  /** Null: padding, a row that was dropped. */
  private table: (Row | null)[] = [];
  private renewed: Row[] = [];
  /** Whose state a slot holds. */
  private readonly owners: (ResidentLane | null)[];
  private readonly expected = new Map<ResidentLane, Replayed>();
  steps = 0;

  constructor(private readonly limits: ResidentLimits) {
    this.owners = new Array(limits.slotsMax).fill(null);
  }

  /** Runs a launch, and checks that the plan knows the tables and keeps the limits. */
  run(plan: ResidentPlan): StepProgress[] {
    const { limits } = this;
    assert.equal(plan.rowsBefore, this.table.length, 'rows before what begins');
    assert.equal(plan.renewedRows, this.renewed.length, 'rows to renew');
    this.finish(plan.finish);
    for (const lane of plan.begin) this.begin(lane);
    assert.equal(plan.activeRows, this.table.length, 'rows that run');
    assert.ok(plan.activeRows <= limits.rowsMax, 'rowsMax');
    assert.ok(plan.steps <= limits.stepsMax, 'stepsMax');
    assert.ok(plan.steps > 0 || this.table.length === 0, 'rows that run are stepped');
    return Array.from({ length: plan.steps }, () => this.step());
  }

  private finish(lanes: readonly ResidentLane[]): void {
    const rows = lanes.reduce((sum, { length, request }) => sum + length - request.scoreFrom, 0);
    assert.ok(lanes.length <= 1 || rows <= this.limits.finishRowsMax, 'finishRowsMax');
    for (const lane of lanes) {
      assert.ok(!this.isInTables(lane), 'nothing of a lane that is read runs on');
      for (let i = 0; i < lane.length; i++) assert.equal(this.owners[lane.base + i], lane, 'its state stands');
    }
  }

  private begin(lane: ResidentLane): void {
    assert.ok(lane.id >= 0 && lane.id < this.limits.lanesMax, 'lanesMax');
    assert.ok(lane.base >= 0 && lane.base + lane.length <= this.limits.slotsMax, 'slotsMax');
    for (const row of [...this.table, ...this.renewed])
      assert.ok(row === null || row.lane.id !== lane.id, 'the number of a lane that is still in a table');
    this.owners.fill(lane, lane.base, lane.base + lane.length);
    this.expected.set(lane, replay(lane.request.ids, lane.request.budget));
    for (let position = 0; position < lane.length; position++) this.table.push({ lane, position, step: 1 });
  }

  private step(): StepProgress {
    this.steps += 1;
    const running = this.table.filter((row) => row !== null);
    for (const { lane, position } of [...running, ...this.renewed])
      assert.equal(this.owners[lane.base + position], lane, 'a row writes to the slot of another lane');
    const kept = running.filter(({ lane, position, step }) => {
      return (this.expected.get(lane) as Replayed).depths[position] !== step;
    });
    const rowsOfLane = new Int32Array(this.limits.lanesMax);
    for (const { lane } of kept) rowsOfLane[lane.id] = (rowsOfLane[lane.id] as number) + 1;
    const keeps = new Set(kept);
    this.renewed = running.filter((row) => !keeps.has(row) && (rowsOfLane[row.lane.id] as number) > 0);
    for (const row of running) row.step += 1;
    this.table = kept;
    return { activeRows: kept.length, renewedRows: this.renewed.length, rowsOfLane };
  }

  /** @returns the lanes whose rows were dropped */
  drop(ranges: readonly RowRange[]): Set<ResidentLane> {
    const dropped = new Set<ResidentLane>();
    for (const { first, count } of ranges) {
      for (let i = first; i < first + count; i++) {
        const row = this.table[i];
        assert.ok(row !== null && row !== undefined, 'a row that runs');
        dropped.add(row.lane);
        this.table[i] = null;
      }
    }
    assert.ok(!this.table.some((row) => row !== null && dropped.has(row.lane)), 'all rows of a lane go, and no others');
    return dropped;
  }

  isInTables(lane: ResidentLane): boolean {
    return [...this.table, ...this.renewed].some((row) => row?.lane === lane);
  }

  /** Rows that the next step renews. */
  get toRenew(): number {
    return this.renewed.length;
  }

  get empty(): boolean {
    return this.table.length === 0 && this.renewed.length === 0;
  }
}
