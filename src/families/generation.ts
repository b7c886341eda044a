/**
 * Continuing text with a Universal Transformer, on the graphs that score: what differs is where keys and values go. A position keeps a
 * row of the cache for each depth, so that those after it find the one of their own.
 */
import type { ModelDescription } from '../models/description.js';
import type { Backend } from '../runtime/backend.js';
import { AttentionPlan, planAttention } from '../scheduler/attention-plan.js';
import type { Candidates, GenerateAdvancePlan, GenerateFinishPlan } from '../scheduler/generate-scheduler.js';
import type { AdvanceResult } from '../scheduler/scheduler.js';
import type { Position, Sequence } from '../scheduler/sequence.js';
import { OutputLayer, type OutputRow } from './output-layer.js';
import { Stack, type StackSizes } from './stack.js';
import type { UniversalTransformer } from './universal-transformer.js';

/** Of all tokens of a prompt. */
export interface PromptScores {
  readonly logprobs: Float32Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
}

export interface FinishedBurst {
  /** Null unless the burst was a prompt whose scores are wanted. */
  readonly prompt: PromptScores | null;
  /** What the next token is chosen from; null where none is to follow. */
  readonly next: Candidates | null;
}

type PromptRow = OutputRow & { readonly scores: PromptScores; readonly place: number };
type NextRow = OutputRow & { readonly burst: number };

export class Generation {
  readonly attention = new AttentionPlan(64);
  private readonly stack: Stack;
  private readonly output: OutputLayer;

  /** Shares the graphs of `scorer`, which stays their owner. */
  constructor(
    backend: Backend,
    private readonly model: ModelDescription,
    { graphs }: UniversalTransformer,
    sizes: StackSizes,
  ) {
    this.stack = new Stack(backend, graphs.begin, graphs.step, sizes);
    this.output = new OutputLayer(backend, graphs, this.stack.accumulator);
  }

  async advance(plan: GenerateAdvancePlan): Promise<AdvanceResult> {
    if (plan.begin.length > 0) await this.begin(plan.begin);
    const queries = plan.lanes.map(({ sequence, step }) => {
      const { active, activeCount, length } = sequence;
      return { active, activeCount, length, keyRows: sequence.keyRowsAt(step) };
    });
    planAttention(queries, this.stack.width, this.attention);
    const rows = this.stack.rows(plan.activeRows, plan.renewedRows);
    const add = ({ slot, rows: cacheRows }: Position, place: number, step: number) =>
      rows.add(slot, cacheRows.at(-1) as number, place, step);
    for (const { sequence, step } of plan.lanes) {
      const { active, activeCount, positions, request } = sequence;
      rows.rule(activeCount, step, request.budget);
      for (const place of active.subarray(0, activeCount)) add(positions[place] as Position, place, step);
    }
    for (const { sequence } of plan.lanes) {
      for (const place of sequence.renewed) {
        const position = sequence.positions[place] as Position;
        add(position, place, position.depth + 1);
      }
    }
    return this.stack.advance(rows, this.attention, null);
  }

  private begin(sequences: readonly Sequence[]): Promise<void> {
    const count = sequences.reduce((sum, { activeCount }) => sum + activeCount, 0);
    return this.stack.start(count, (ids, slots) => {
      let row = 0;
      for (const sequence of sequences) {
        for (let place = sequence.burst; place < sequence.length; place++, row++) {
          ids[row] = sequence.inputAt(place, this.model.bosId);
          slots[row] = (sequence.positions[place] as Position).slot;
        }
      }
    });
  }

  /** One result per sequence of the plan, in its order. */
  async finish({ sequences }: GenerateFinishPlan): Promise<FinishedBurst[]> {
    const prompts: PromptRow[] = [];
    const best: NextRow[] = [];
    const drawn: NextRow[] = [];
    const next: (Candidates | null)[] = sequences.map(() => null);
    const scores = sequences.map((sequence, burst) => {
      const { request, positions } = sequence;
      const { prompt, topCount, temperature } = request;
      if (request.maxNewTokens > 0) {
        const { slot } = positions.at(-1) as Position;
        // A token is drawn from all, sorted: no other graph is needed, and no less would be exact at every temperature.
        if (temperature > 0) drawn.push({ slot, target: 0, topCount: this.model.vocabularySize, burst });
        else best.push({ slot, target: 0, topCount: Math.max(1, topCount), burst });
      }
      if (!sequence.scoresPrompt) return null;
      const scores = emptyScores(prompt.length, topCount);
      for (let place = 0; place < prompt.length; place++) {
        const { slot } = positions[place] as Position;
        prompts.push({ slot, target: prompt[place] as number, topCount, scores, place });
      }
      return scores;
    });
    await this.output.run(prompts, ({ scores, place, topCount }, logprob, topIds, topLogprobs) => {
      scores.logprobs[place] = logprob;
      scores.topIds.set(topIds, place * topCount);
      scores.topLogprobs.set(topLogprobs, place * topCount);
    });
    // Apart, so that the best tokens do not wait for a vocabulary to be sorted in each of their rows.
    for (const rows of [best, drawn]) {
      await this.output.run(rows, ({ burst }, _, ids, logprobs) => {
        next[burst] = { ids: ids.slice(), logprobs: logprobs.slice() };
      });
    }
    return scores.map((prompt, burst) => ({ prompt, next: next[burst] as Candidates | null }));
  }

  release(): void {
    this.output.release();
    this.stack.release();
  }
}

function emptyScores(count: number, topCount: number): PromptScores {
  return {
    logprobs: new Float32Array(count),
    topIds: new Int32Array(count * topCount),
    topLogprobs: new Float32Array(count * topCount),
  };
}
