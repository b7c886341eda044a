/** One completion from prompts to what is told of it, whether it is answered at once or as a stream. */
import { monotonicMs } from '../clock.js';
import type { Engine, GenerateListener } from '../engine/engine.js';
import type { SequenceResult } from '../engine/protocol.js';
import type { Observer } from '../metrics/observe.js';
import type { ModelDescription } from '../models/description.js';
import type { Prompt } from './completion-prompts.js';
import type { CompletionPonder, CompletionUsage } from './completion-schemas.js';
import type { CompletionSettings } from './completion-settings.js';
import type { RequestExit } from './request-exit.js';
import { roundMs, type Split } from './timing.js';

export interface CompletionOrder {
  readonly model: ModelDescription;
  readonly prompts: readonly Prompt[];
  readonly settings: CompletionSettings;
  /** What making the prompts took. */
  readonly tokenizeMs: number;
  readonly listener?: GenerateListener;
}

export interface Completion {
  /** `settings.choices` of each prompt, prompt after prompt. */
  readonly sequences: readonly SequenceResult[];
  readonly usage: CompletionUsage;
  /** All zero for a model without adaptive depth, whose replies leave it out. */
  readonly ponder: CompletionPonder;
  readonly timing: Split;
}

/** The CLI has no metrics to keep. */
export interface CompletionDeps {
  readonly engine: Engine;
  readonly observer: Pick<Observer, 'completed'>;
}

/** @throws ServerError as `Engine.generate` does */
export async function runCompletion(
  { engine, observer }: CompletionDeps,
  exit: Pick<RequestExit, 'signal' | 'startedAtMs'> & Partial<Pick<RequestExit, 'tenant'>>,
  { model, prompts, settings, tokenizeMs, listener }: CompletionOrder,
): Promise<Completion> {
  const { budget, spanCap, maxNewTokens, temperature, topP, choices, logprobs, echo, stopIds, deadlineMs } = settings;
  const repeated = prompts.flatMap((prompt) => new Array<Prompt>(choices).fill(prompt));
  const calledAtMs = monotonicMs();
  const request = {
    model: model.id,
    prompts: repeated.map(({ ids, implied }) => ids.subarray(implied).slice()),
    budget,
    spanCap,
    maxNewTokens,
    temperature,
    topP,
    // Each choice draws its own numbers; a prompt's do not depend on the others of the request.
    seeds: repeated.map((_, i) => settings.seed + (i % choices)),
    topLogprobs: logprobs ?? 0,
    promptLogprobs: echo && logprobs !== null,
    stopIds,
    deadlineAtMs: deadlineMs === null ? null : exit.startedAtMs + deadlineMs,
    tenant: exit.tenant ?? '',
  };
  const outcome = await engine.generate(request, exit.signal, listener);
  const { sequences, queueMs, computeMs } = outcome;
  const totalMs = monotonicMs() - exit.startedAtMs;
  const usage = usageOf(prompts, sequences);
  const ponder = ponderOf(sequences, model.maxSteps);
  const firstTokenMs = outcome.firstTokenMs === null ? null : calledAtMs - exit.startedAtMs + outcome.firstTokenMs;
  observer.completed({
    model: model.id,
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    finishReasons: sequences.map(({ finishReason }) => finishReason),
    histogram: model.span === undefined ? ponder.histogram : null,
    queueMs,
    tokenizeMs,
    computeMs,
    totalMs,
    firstTokenMs,
  });
  const timing = {
    queue_ms: roundMs(queueMs),
    tokenize_ms: roundMs(tokenizeMs),
    compute_ms: roundMs(computeMs),
    total_ms: roundMs(totalMs),
  };
  return { sequences, usage, ponder, timing };
}

function usageOf(prompts: readonly Prompt[], sequences: readonly SequenceResult[]): CompletionUsage {
  const prompt_tokens = prompts.reduce((sum, { ids }) => sum + ids.length, 0);
  const completion_tokens = sequences.reduce((sum, { tokens }) => sum + tokens.ids.length, 0);
  return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
}

function ponderOf(sequences: readonly SequenceResult[], maxSteps: number): CompletionPonder {
  const histogram = new Array<number>(maxSteps + 1).fill(0);
  let tokens = 0;
  let steps = 0;
  let position_steps = 0;
  let positions = 0;
  for (const sequence of sequences) {
    position_steps += sequence.positionSteps;
    positions += sequence.positions;
    for (const scores of [sequence.prompt, sequence.tokens]) {
      for (const depth of scores?.depths ?? []) {
        tokens += 1;
        steps += depth;
        histogram[depth] = (histogram[depth] ?? 0) + 1;
      }
    }
  }
  return {
    mean: tokens === 0 ? 0 : steps / tokens,
    max: Math.max(
      0,
      histogram.findLastIndex((count) => count > 0),
    ),
    histogram,
    position_steps,
    position_steps_fixed: positions * maxSteps,
  };
}
