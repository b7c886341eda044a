/**
 * A generating family without weights that watches the scheduler. It halts rows and rates tokens as generation-oracle.ts says, and keeps
 * slots and cache rows as the pools would hold them. It throws an AssertionError at the first plan that breaks a rule, above all
 * at a key that is not the one of step min(t, N + 1).
 */
import assert from 'node:assert/strict';
import type { GeneratingFamily } from '../src/engine/generate-stage.js';
import type { FinishedBurst } from '../src/families/generation.js';
import type { GenerateAdvancePlan, GenerateFinishPlan, GenerateLimits } from '../src/scheduler/generate-scheduler.js';
import type { AdvanceResult } from '../src/scheduler/scheduler.js';
import type { Position, Sequence } from '../src/scheduler/sequence.js';
import { logprobsAfter, printsOf } from './generation-oracle.js';
import { haltingProbability, haltingUpdate } from './halting-oracle.js';
import { BOS, ranked, VOCABULARY } from './translation-oracle.js';

/** What the state of a slot stands for. */
interface State {
  readonly sequence: Sequence;
  readonly place: number;
  readonly print: number;
  steps: number;
  sum: number;
  halted: boolean;
}

interface CacheRow {
  readonly sequence: Sequence;
  readonly place: number;
  readonly depth: number;
}

function check(holds: boolean, what: string): asserts holds {
  if (!holds) assert.fail(what);
}

export class FakeGeneration implements GeneratingFamily {
  readonly attention = { keysUseful: 0, keysComputed: 0 };
  readonly totals = { steps: 0, activeRows: 0, renewedRows: 0, halted: 0 };
  /** Most positions that one step computed. */
  rowsMost = 0;
  private readonly slots = new Map<number, State>();
  private readonly cache = new Map<number, CacheRow>();

  constructor(private readonly limits: GenerateLimits) {}

  async advance(plan: GenerateAdvancePlan): Promise<AdvanceResult> {
    for (const sequence of plan.begin) this.begin(sequence, plan);
    this.checkLimits(plan);
    for (const { sequence, step } of plan.lanes) this.write(sequence, step);
    for (const { sequence, step } of plan.lanes) this.checkKeys(sequence, step);
    const updates = plan.lanes.flatMap(({ sequence, step, isLast, isHeld }) => {
      const { maxSteps, minSteps } = sequence.request.budget;
      check(isLast === step >= maxSteps && isHeld === step < minSteps, 'the budget says when it ends');
      return activePlaces(sequence).map((place) => this.halt(sequence, place, isLast, isHeld));
    });
    check(updates.length === plan.activeRows, 'activeRows is the number of active rows');
    this.totals.steps += 1;
    this.totals.activeRows += plan.activeRows;
    this.totals.renewedRows += plan.renewedRows;
    this.rowsMost = Math.max(this.rowsMost, plan.activeRows);
    return {
      halted: Uint8Array.from(updates, ({ halted }) => Number(halted)),
      remainders: Float32Array.from(updates, ({ remainder }) => remainder),
    };
  }

  private begin(sequence: Sequence, plan: GenerateAdvancePlan): void {
    check(
      plan.lanes.some((lane) => lane.sequence === sequence && lane.step === 1),
      'what begins runs its first step',
    );
    check(activePlaces(sequence).length === sequence.length - sequence.burst, 'all of a burst runs');
    const { prompt } = sequence.request;
    const inputs = sequence.positions.map((_, place) => sequence.inputAt(place, BOS));
    const text = [BOS, ...prompt, ...sequence.said.map(({ id }) => id)];
    assert.deepEqual(inputs, text.slice(0, inputs.length), 'a position reads the token before the one it predicts');
    const prints = printsOf(inputs.slice(1));
    for (let place = sequence.burst; place < sequence.length; place++) {
      const { slot, rows } = sequence.positions[place] as Position;
      check(rows.length === 1, 'a new position has one cache row');
      this.slots.set(slot, { sequence, place, print: prints[place] as number, steps: 0, sum: 0, halted: false });
    }
  }

  private checkLimits({ lanes, activeRows, renewedRows }: GenerateAdvancePlan): void {
    const { rowsMax, lanesMax, slotsMax, cacheRowsMax } = this.limits;
    check(activeRows > 0 && activeRows <= rowsMax, `${activeRows} rows of ${rowsMax}`);
    check(lanes.length <= lanesMax, `${lanes.length} lanes of ${lanesMax}`);
    const sequences = lanes.map(({ sequence }) => sequence);
    check(
      sequences.every(({ activeCount }) => activeCount > 0),
      'a sequence in a step has rows',
    );
    const renewed = sequences.reduce((sum, sequence) => sum + sequence.renewed.length, 0);
    check(renewed === renewedRows, 'renewedRows is the number of renewed rows');
    const positions = sequences.flatMap((sequence) => sequence.positions);
    assertRows(
      positions.map(({ slot }) => slot).filter((slot) => slot >= 0),
      slotsMax,
      'slot',
    );
    assertRows(
      positions.flatMap(({ rows }) => rows),
      cacheRowsMax,
      'cache row',
    );
  }

  private write(sequence: Sequence, step: number): void {
    const { positions, renewed, keepsDepths } = sequence;
    for (const place of activePlaces(sequence)) {
      const { rows } = positions[place] as Position;
      check(rows.length === (keepsDepths ? step : 1), 'a cache row a step, where depths are kept');
      this.cache.set(rows.at(-1) as number, { sequence, place, depth: step });
    }
    for (const place of renewed) {
      const { rows, depth } = positions[place] as Position;
      const state = this.stateOf(sequence, place);
      check(state.halted && state.steps === depth, 'a key is renewed when its position has halted');
      check(depth < sequence.request.budget.maxSteps, 'nobody looks at a depth past max_steps');
      check(rows.length === (keepsDepths ? depth + 1 : 1), 'a renewal takes the last cache row');
      this.cache.set(rows.at(-1) as number, { sequence, place, depth: depth + 1 });
    }
  }

  /** Every query sees position j by the row of depth min(t, N_j + 1). */
  private checkKeys(sequence: Sequence, step: number): void {
    const keys = sequence.keyRowsAt(step);
    const { maxSteps } = sequence.request.budget;
    const active = new Set(activePlaces(sequence));
    const last = Math.max(...active);
    for (let place = 0; place <= last; place++) {
      const halted = (sequence.positions[place] as Position).depth;
      const wanted = active.has(place) ? step : Math.min(step, halted + 1, maxSteps);
      const row = this.cache.get(keys[place] as number);
      const where = `position ${place} of ${keys.length}, step ${step}`;
      check(row?.sequence === sequence && row.place === place, `${where}: the row of another`);
      check(row.depth === wanted, `${where}: depth ${row.depth} in place of ${wanted}`);
    }
  }

  private halt(sequence: Sequence, place: number, isLast: boolean, isHeld: boolean) {
    const state = this.stateOf(sequence, place);
    check(!state.halted, 'what has halted does not run');
    state.steps += 1;
    check(state.steps === sequence.steps + 1, 'the positions of a burst run together');
    const p = haltingProbability(state.print, place, state.steps);
    const update = haltingUpdate(p, state.sum, sequence.request.budget.threshold, isLast, isHeld);
    state.sum = update.sum;
    state.halted = update.halted;
    if (update.halted) this.totals.halted += 1;
    return update;
  }

  async finish({ sequences }: GenerateFinishPlan): Promise<FinishedBurst[]> {
    const rows = sequences.reduce((sum, sequence) => sum + (scoresPrompt(sequence) ? sequence.length : 1), 0);
    check(sequences.length === 1 || rows <= this.limits.finishRowsMax, `${rows} rows are finished at once`);
    check(new Set(sequences).size === sequences.length, 'a sequence is finished once');
    return sequences.map((sequence) => this.finished(sequence));
  }

  private finished(sequence: Sequence): FinishedBurst {
    const { request, said, length } = sequence;
    const { prompt, topCount, temperature, maxNewTokens } = request;
    check(sequence.activeCount === 0, 'a burst is finished when all its positions have halted');
    check(sequence.scoresPrompt === scoresPrompt(sequence), 'a prompt is scored once, and where that was asked');
    const text = [...prompt, ...said.map(({ id }) => id)];
    const best = (from: readonly number[], k: number) => {
      const all = logprobsAfter(from);
      const ids = ranked(all).slice(0, k);
      return { all, ids, logprobs: ids.map((id) => all[id] as number) };
    };
    if (maxNewTokens > 0) check(this.stateOf(sequence, length - 1).halted, 'the position that decides has halted');
    const next = maxNewTokens > 0 ? best(text, temperature > 0 ? VOCABULARY : Math.max(1, topCount)) : null;
    const rows = !scoresPrompt(sequence)
      ? null
      : Array.from(prompt, (id, place) => {
          check(this.stateOf(sequence, place).halted, 'the states of a prompt are there to be read');
          const found = best(text.slice(0, place), topCount);
          return { ...found, logprob: found.all[id] as number };
        });
    return {
      prompt: rows && {
        logprobs: Float32Array.from(rows, ({ logprob }) => logprob),
        topIds: Int32Array.from(rows.flatMap(({ ids }) => ids)),
        topLogprobs: Float32Array.from(rows.flatMap(({ logprobs }) => logprobs)),
      },
      next: next && { ids: Int32Array.from(next.ids), logprobs: Float32Array.from(next.logprobs) },
    };
  }

  private stateOf(sequence: Sequence, place: number): State {
    const state = this.slots.get((sequence.positions[place] as Position).slot);
    check(state?.sequence === sequence && state.place === place, 'a slot keeps its owner');
    return state;
  }
}

/** By the definition, not by what the sequence says of itself. */
function scoresPrompt({ request, burst }: Sequence): boolean {
  return request.promptLogprobs && burst === 0;
}

function activePlaces({ active, activeCount }: Sequence): number[] {
  return Array.from(active.subarray(0, activeCount));
}

function assertRows(rows: readonly number[], capacity: number, what: string): void {
  check(new Set(rows).size === rows.length, `no ${what} belongs to two positions`);
  check(
    rows.every((row) => row >= 0 && row < capacity),
    `a ${what} is a row of its pool`,
  );
}
