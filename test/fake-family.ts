/**
 * A family without weights that watches the scheduler: it halts rows as halting-oracle.ts says, keeps its sums by slot as the real
 * one does, and throws an AssertionError at the first plan that breaks a rule. It also adds up what telemetry must report.
 */
import assert from 'node:assert/strict';
import type { ScoreWindowResult } from '../src/engine/protocol.js';
import type { Family } from '../src/families/universal-transformer.js';
import type { Lane } from '../src/scheduler/lane.js';
import type { AdvancePlan, AdvanceResult, FinishPlan, SchedulerLimits } from '../src/scheduler/scheduler.js';
import { fingerprint, haltingProbability, haltingUpdate, hash01 } from './halting-oracle.js';

/** A slot's owner and what the pools would hold there. */
interface Slot {
  lane: Lane;
  position: number;
  sum: number;
}

export class FakeFamily implements Family {
  keysUseful = 0;
  keysComputed = 0;
  released = false;
  /** Totals over all plans. */
  readonly totals = {
    steps: 0,
    activeRows: 0,
    renewedRows: 0,
    keysUseful: 0,
    keysComputed: 0,
    halted: 0,
    remainderSum: 0,
  };
  readonly rowsPerStep: number[] = [];
  readonly haltedAtStep: number[] = [];
  private readonly slots = new Map<number, Slot>();
  private readonly known = new Map<Lane, { readonly print: number; renewed: number[]; running: number[] }>();

  /**
   * @param onRun called before each plan is run, such as to move the clock
   * @param causal whether positions see those before them only, or, as in an encoder, all of their lane
   */
  constructor(
    private readonly limits: SchedulerLimits,
    private readonly onRun: (kind: 'advance' | 'finish') => void = () => {},
    private readonly causal = true,
  ) {}

  async advance(plan: AdvancePlan): Promise<AdvanceResult> {
    this.onRun('advance');
    for (const lane of plan.begin) this.begin(lane);
    this.checkLimits(plan);
    const halted: number[] = [];
    const remainders: number[] = [];
    for (const { lane, step, isLast, isHeld } of plan.lanes) {
      this.checkLane(lane, step, isLast, isHeld);
      const known = this.lane(lane);
      const left: number[] = [];
      const justHalted: number[] = [];
      for (const position of known.running) {
        const slot = this.slotOf(lane, position);
        const p = haltingProbability(known.print, position, step);
        const update = haltingUpdate(p, slot.sum, lane.request.budget.threshold, isLast, isHeld);
        slot.sum = update.sum;
        halted.push(update.halted ? 1 : 0);
        remainders.push(update.remainder);
        (update.halted ? justHalted : left).push(position);
        if (!update.halted) continue;
        this.haltedAtStep[step] = (this.haltedAtStep[step] ?? 0) + 1;
        this.totals.halted += 1;
        this.totals.remainderSum += update.remainder;
      }
      const seenUpTo = this.causal || left.length === 0 ? (left.at(-1) ?? -1) : lane.length;
      known.running = left;
      known.renewed = justHalted.filter((position) => position < seenUpTo);
    }
    assert.equal(halted.length, plan.activeRows, 'activeRows is the number of rows of the lanes');
    this.count(plan);
    return { halted: Uint8Array.from(halted), remainders: Float32Array.from(remainders) };
  }

  private begin(lane: Lane): void {
    assert.ok(!this.known.has(lane), 'a lane begins once');
    assert.equal(lane.slots.length, lane.length, 'a slot a position');
    for (let position = 0; position < lane.length; position++) {
      this.slots.set(lane.slots[position] as number, { lane, position, sum: 0 });
    }
    const running = Array.from({ length: lane.length }, (_, i) => i);
    this.known.set(lane, { print: fingerprint(lane.request.ids), renewed: [], running });
  }

  private checkLimits({ lanes, begin, activeRows }: AdvancePlan): void {
    const { rowsMax, lanesMax, slotsMax } = this.limits;
    assert.ok(activeRows <= rowsMax, `${activeRows} rows of ${rowsMax}`);
    assert.ok(lanes.length <= lanesMax, `${lanes.length} lanes of ${lanesMax}`);
    assert.equal(new Set(lanes.map(({ lane }) => lane)).size, lanes.length, 'a lane is in a step once');
    for (const lane of begin)
      assert.ok(
        lanes.some((step) => step.lane === lane),
        'what begins runs',
      );
    const held = lanes.flatMap(({ lane }) => Array.from(lane.slots));
    assert.ok(held.length <= slotsMax, `${held.length} slots of ${slotsMax}`);
    assert.equal(new Set(held).size, held.length, 'no slot belongs to two lanes');
    assert.ok(
      held.every((slot) => slot >= 0 && slot < slotsMax),
      'slots are rows of the pools',
    );
  }

  private checkLane(lane: Lane, step: number, isLast: boolean, isHeld: boolean): void {
    const known = this.lane(lane);
    const { maxSteps, minSteps } = lane.request.budget;
    assert.equal(step, lane.steps + 1, 'every lane advances by one step');
    assert.equal(isLast, step === maxSteps, 'the budget ends at max_steps');
    assert.equal(isHeld, step < minSteps, 'nothing halts before min_steps');
    assert.deepEqual(Array.from(lane.active.subarray(0, lane.activeCount)), known.running, 'active: those that run');
    assert.ok(lane.activeCount > 0, 'a lane that is done has left');
    const renewed = Array.from(lane.renewed.subarray(0, lane.renewedCount));
    assert.deepEqual(renewed, known.renewed, 'renewed: those that halted a step ago and that somebody still sees');
  }

  private count(plan: AdvancePlan): void {
    const renewed = plan.lanes.reduce((sum, { lane }) => sum + lane.renewedCount, 0);
    assert.equal(plan.renewedRows, renewed, 'renewedRows is the number of renewed rows of the lanes');
    this.keysUseful = plan.activeRows * 2;
    this.keysComputed = plan.activeRows * 3;
    this.totals.steps += 1;
    this.totals.activeRows += plan.activeRows;
    this.totals.renewedRows += plan.renewedRows;
    this.totals.keysUseful += this.keysUseful;
    this.totals.keysComputed += this.keysComputed;
    this.rowsPerStep.push(plan.activeRows);
  }

  async finish(plan: FinishPlan): Promise<ScoreWindowResult[]> {
    this.onRun('finish');
    const rows = plan.lanes.reduce((sum, lane) => sum + lane.length - lane.request.scoreFrom, 0);
    assert.ok(plan.lanes.length === 1 || rows <= this.limits.finishRowsMax, `${rows} rows are finished at once`);
    return plan.lanes.map((lane) => {
      assert.equal(this.lane(lane).running.length, 0, 'a lane is finished when all its positions have halted');
      for (let position = 0; position < lane.length; position++) this.slotOf(lane, position);
      this.known.delete(lane);
      return fakeResult(lane);
    });
  }

  /** The slot of a position; another lane must not have been given it meanwhile. */
  private slotOf(lane: Lane, position: number): Slot {
    const slot = this.slots.get(lane.slots[position] as number);
    assert.ok(slot !== undefined && slot.lane === lane && slot.position === position, 'a slot keeps its owner');
    return slot;
  }

  private lane(lane: Lane) {
    const known = this.known.get(lane);
    if (known === undefined) assert.fail('a lane begins before it runs, and is finished once');
    return known;
  }

  release(): void {
    this.released = true;
  }
}

/** Any function of the window and what the scheduler kept of it. */
export function fakeResult({ request, length, depths, remainders, positionSteps }: Lane): ScoreWindowResult {
  const { ids, scoreFrom, topCount } = request;
  const print = fingerprint(ids);
  const logprobs = Float32Array.from({ length: length - scoreFrom }, (_, i) => -20 * hash01(print, scoreFrom + i));
  return {
    logprobs,
    depths: depths.slice(scoreFrom),
    remainders: remainders.slice(scoreFrom),
    topIds: new Int32Array(logprobs.length * topCount).fill(print % 1000),
    topLogprobs: new Float32Array(logprobs.length * topCount).fill(-1),
    positionSteps,
  };
}
