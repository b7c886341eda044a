/** Runs prompts through the real scheduler and the real graphs, without the engine's loop: what a batch says, and nothing else. */
import type { Generation, PromptScores } from '../../src/families/generation.js';
import { type GenerateLimits, GenerateScheduler } from '../../src/scheduler/generate-scheduler.js';
import type { Sequence, SequenceRequest } from '../../src/scheduler/sequence.js';
import { MODEL_BUDGET } from './scoring.js';

export type Continuing = Partial<Omit<SequenceRequest, 'jobId' | 'index'>> & {
  readonly prompt: Int32Array;
  /** Turns before this prompt is submitted. */
  readonly submitBefore?: number;
};

export interface Continued {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly topIds: readonly number[];
  readonly topLogprobs: readonly number[];
  readonly depths: readonly number[];
  readonly remainders: readonly number[];
  readonly prompt:
    | (PromptScores & { readonly depths: readonly number[]; readonly remainders: readonly number[] })
    | null;
  readonly finishReason: 'stop' | 'length';
  readonly cacheRows: number;
  readonly positionSteps: number;
}

/** Of the pools of the families that these tests open. */
export const POOLS = { slots: 1024, cacheRows: 16_384 };
const ROOMY: GenerateLimits = {
  rowsMax: 1024,
  lanesMax: 64,
  slotsMax: POOLS.slots,
  cacheRowsMax: POOLS.cacheRows,
  finishRowsMax: 512,
};

/** Continues all prompts in one batch under `limits`; results in their order. */
export async function continueAll(
  family: Generation,
  prompts: readonly Continuing[],
  limits: GenerateLimits = ROOMY,
): Promise<Continued[]> {
  const scheduler = new GenerateScheduler(limits, MODEL_BUDGET.maxSteps);
  const results: Continued[] = new Array(prompts.length);
  const scores = new Map<Sequence, PromptScores>();
  const submitted = new Set<number>();
  for (let turn = 0; ; turn++) {
    const idle = scheduler.idle;
    prompts.forEach((prompt, jobId) => {
      if (submitted.has(jobId) || (!idle && (prompt.submitBefore ?? 0) > turn)) return;
      submitted.add(jobId);
      const times = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };
      scheduler.submit(jobId, [{ ...DEFAULTS, ...prompt, jobId, index: 0 }], times);
    });
    const plan = scheduler.schedule();
    if (plan === null) break;
    if (plan.kind === 'advance') {
      scheduler.applyAdvance(plan, await family.advance(plan));
      continue;
    }
    const finished = await family.finish(plan);
    plan.sequences.forEach((sequence, i) => {
      const { prompt } = finished[i] as (typeof finished)[number];
      if (prompt !== null) scores.set(sequence, prompt);
    });
    const { done } = scheduler.applyFinish(
      plan,
      finished.map(({ next }) => next),
    );
    for (const { sequence, ...end } of done) results[sequence.request.jobId] = continued(sequence, scores, end);
  }
  if (submitted.size !== prompts.length || scheduler.slotsUsed !== 0 || scheduler.cache.used !== 0)
    throw new Error('a sequence was lost');
  return results;
}

const DEFAULTS = {
  budget: MODEL_BUDGET,
  maxNewTokens: 16,
  temperature: 0,
  topP: 1,
  seed: 0,
  topCount: 0,
  promptLogprobs: false,
  stopIds: new Set<number>(),
};

function continued(
  { request, said, positions, positionSteps }: Sequence,
  scores: ReadonlyMap<Sequence, PromptScores>,
  end: Pick<Continued, 'finishReason' | 'cacheRows'>,
): Continued {
  const [prompt] = [...scores].flatMap(([{ request: of }, found]) => (of === request ? [found] : []));
  const predicting = positions.slice(0, request.prompt.length);
  return {
    ids: said.map(({ id }) => id),
    logprobs: said.map(({ logprob }) => logprob),
    topIds: said.flatMap(({ topIds }) => [...topIds]),
    topLogprobs: said.flatMap(({ topLogprobs }) => [...topLogprobs]),
    depths: said.map(({ depth }) => depth),
    remainders: said.map(({ remainder }) => remainder),
    prompt:
      prompt === undefined
        ? null
        : {
            ...prompt,
            depths: predicting.map(({ depth }) => depth),
            remainders: predicting.map(({ remainder }) => remainder),
          },
    ...end,
    positionSteps,
  };
}
