/**
 * A decoder without weights that watches the scheduler. It halts rows and chooses tokens as translation-oracle.ts says, and keeps
 * slots and cache rows as the pools would hold them: who wrote each row, at which depth and in which step. It throws an
 * AssertionError at the first plan that breaks a rule, above all at a key that is not the one of step min(t, N+1).
 */
import assert from 'node:assert/strict';
import { candidatesPerHypothesis } from '../src/scheduler/beam.js';
import type {
  BestTokens,
  DecodeAdvancePlan,
  DecodeFinishPlan,
  DecodeLimits,
  Hypothesis,
  Renewal,
  Sentence,
} from '../src/scheduler/decode-scheduler.js';
import type { AdvanceResult } from '../src/scheduler/scheduler.js';
import { haltingProbability, haltingUpdate } from './halting-oracle.js';
import { BOS, bestTokens, decoderDepth, prefixPrints } from './translation-oracle.js';

/** What the state of a slot stands for. */
interface Slot {
  readonly sentence: Sentence;
  readonly prefix: readonly number[];
  /** Of each position of the prefix. */
  readonly prints: readonly number[];
  /** N of each position but the last. */
  readonly depths: readonly number[];
  steps: number;
  sum: number;
  halted: boolean;
}

interface CacheRow {
  readonly sentence: Sentence;
  readonly print: number;
  readonly depth: number;
  readonly atStep: number;
}

function check(holds: boolean, what: string): asserts holds {
  if (!holds) assert.fail(what);
}

export class FakeDecoder {
  readonly totals = { steps: 0, activeRows: 0, renewedRows: 0, halted: 0, remainderSum: 0 };
  readonly rowsPerStep: number[] = [];
  readonly haltedAtStep: number[] = [];
  readonly attention = { keysUseful: 0, keysComputed: 0 };
  /** Most slots that one step touched. */
  slotsMost = 0;
  private readonly slots = new Map<number, Slot>();
  private readonly cache = new Map<number, CacheRow>();

  /** `sourceOf`: what the memory rows of a sentence hold. */
  constructor(
    private readonly limits: DecodeLimits,
    private readonly sourceOf: (sentence: Sentence) => Int32Array,
  ) {}

  advance(plan: DecodeAdvancePlan): AdvanceResult {
    const { active, renewed, begin } = plan;
    this.totals.steps += 1;
    for (const hypothesis of begin) this.begin(hypothesis);
    check(
      begin.every((hypothesis) => active.includes(hypothesis)),
      'what begins runs',
    );
    this.checkLimits(plan);
    for (const hypothesis of active) this.write(hypothesis);
    for (const renewal of renewed) this.renew(renewal);
    for (const hypothesis of active) this.checkKeys(hypothesis);
    const updates = active.map((hypothesis) => this.halt(hypothesis));
    this.totals.activeRows += active.length;
    this.totals.renewedRows += renewed.length;
    this.rowsPerStep.push(active.length);
    this.attention.keysUseful = 2 * active.length;
    this.attention.keysComputed = 3 * active.length;
    return {
      halted: Uint8Array.from(updates, ({ halted }) => Number(halted)),
      remainders: Float32Array.from(updates, ({ remainder }) => remainder),
    };
  }

  private begin({ sentence, ids, inputId, slot, node, steps, halted }: Hypothesis): void {
    const prefix = [BOS, ...ids];
    check(inputId === prefix.at(-1) && node.position === ids.length, 'the newest token begins at its own position');
    check(steps === 0 && !halted && node.rows.length === 1, 'it has done nothing yet');
    const prints = prefixPrints(this.sourceOf(sentence), prefix);
    const depths = prints.slice(0, -1).map((print, i) => decoderDepth(print, i, sentence.request.budget).depth);
    this.slots.set(slot, { sentence, prefix, prints, depths, steps: 0, sum: 0, halted: false });
  }

  private checkLimits({ active, renewed }: DecodeAdvancePlan): void {
    check(active.length > 0, 'a step has rows');
    check(active.length <= this.limits.rowsMax, `${active.length} rows of ${this.limits.rowsMax}`);
    const slots = [...active, ...renewed].map(({ slot }) => slot);
    check(new Set(slots).size === slots.length, 'a slot is in a step once');
    check(
      slots.every((slot) => slot >= 0 && slot < 2 * this.limits.rowsMax),
      'slots are rows of the pools',
    );
    this.slotsMost = Math.max(this.slotsMost, slots.length);
    const written = [
      ...active.map(({ node, steps }) => node.rows[steps]),
      ...renewed.map(({ node, step }) => node.rows[step - 1]),
    ] as number[];
    check(new Set(written).size === written.length, 'a cache row is written once in a step');
    check(
      written.every((row) => row >= 0 && row < this.limits.cacheRowsMax),
      'cache rows are rows of the pools',
    );
    const groups = active.filter(({ sentence }, i) => sentence !== active[i - 1]?.sentence);
    check(new Set(groups.map(({ sentence }) => sentence)).size === groups.length, 'rows lie sentence after sentence');
  }

  private write(hypothesis: Hypothesis): void {
    const { node, steps, sentence, halted } = hypothesis;
    const slot = this.slotOf(hypothesis);
    check(!halted && !slot.halted && slot.steps === steps, 'what has halted does not run');
    check(node.rows.length === steps + 1, 'a position takes one cache row a step');
    this.cache.set(node.rows[steps] as number, this.row(sentence, slot, steps + 1));
  }

  private renew({ sentence, node, slot: at, step }: Renewal): void {
    const slot = this.slots.get(at);
    check(slot?.sentence === sentence && slot.prefix.length === node.position + 1, 'a renewed slot keeps its owner');
    check(slot.halted && slot.steps === step - 1, 'a key is renewed once its position has halted');
    check(step <= sentence.request.budget.maxSteps, 'nobody looks at a depth past max_steps');
    check(node.rows.length === step, 'a renewal takes the last cache row');
    this.cache.set(node.rows[step - 1] as number, this.row(sentence, slot, step));
    this.slots.delete(at);
  }

  private row(sentence: Sentence, { prints }: Slot, depth: number): CacheRow {
    return { sentence, print: prints.at(-1) as number, depth, atStep: this.totals.steps };
  }

  /** Every query sees position j by the row of step min(t, N_j + 1), which an earlier step has written. */
  private checkKeys(hypothesis: Hypothesis): void {
    const { node, sentence } = hypothesis;
    const { prints, depths, steps } = this.slotOf(hypothesis);
    const step = steps + 1;
    const keys = new Int32Array(node.position + 1).fill(-1);
    node.keyRows(step, keys);
    keys.forEach((key, position) => {
      const isOwn = position === node.position;
      const wanted = isOwn ? step : Math.min(step, (depths[position] as number) + 1, sentence.request.budget.maxSteps);
      const row = this.cache.get(key);
      const where = `position ${position} of ${keys.length}, step ${step}`;
      check(row !== undefined, `${where}: row ${key} was never written`);
      check(row.sentence === sentence && row.print === prints[position], `${where}: the row of another prefix`);
      check(row.depth === wanted, `${where}: depth ${row.depth} in place of ${wanted}`);
      check(isOwn || row.atStep < this.totals.steps, `${where}: read in the step that writes it`);
    });
  }

  private halt(hypothesis: Hypothesis): { halted: boolean; remainder: number } {
    const slot = this.slotOf(hypothesis);
    const { maxSteps, minSteps, threshold } = hypothesis.sentence.request.budget;
    const position = slot.prefix.length - 1;
    slot.steps += 1;
    const p = haltingProbability(slot.prints[position] as number, position, slot.steps);
    const update = haltingUpdate(p, slot.sum, threshold, slot.steps >= maxSteps, slot.steps < minSteps);
    slot.sum = update.sum;
    slot.halted = update.halted;
    if (!update.halted) return update;
    this.totals.halted += 1;
    this.totals.remainderSum += update.remainder;
    this.haltedAtStep[slot.steps] = (this.haltedAtStep[slot.steps] ?? 0) + 1;
    return update;
  }

  finish(plan: DecodeFinishPlan): BestTokens[] {
    check(new Set(plan.sentences).size === plan.sentences.length, 'a sentence is finished once');
    return plan.sentences.map((sentence) => {
      const { hypotheses, request } = sentence;
      check(hypotheses.length > 0 && hypotheses.length <= request.beam, `${hypotheses.length} hypotheses`);
      const prefixes = hypotheses.map((hypothesis) => {
        const slot = this.slotOf(hypothesis);
        check(slot.halted, 'a position is finished when it has halted');
        return slot.prefix;
      });
      return bestTokens(this.sourceOf(sentence), prefixes, candidatesPerHypothesis(request.beam));
    });
  }

  private slotOf({ slot: at, sentence, ids }: Hypothesis): Slot {
    const slot = this.slots.get(at);
    check(slot?.sentence === sentence && slot.prefix.length === ids.length + 1, 'a slot keeps its owner');
    check(
      ids.every((id, i) => slot.prefix[i + 1] === id),
      'a slot keeps its prefix',
    );
    return slot;
  }
}
