/** Translates through the real stage, schedulers and family, without the engine's loop: what a batch computes, and nothing else. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Budget, SentenceResult, TranslateJob } from '../../src/engine/protocol.js';
import { type TranslateLimits, TranslateStage } from '../../src/engine/translate-stage.js';
import { Translation } from '../../src/families/translation.js';
import type { ModelDescription } from '../../src/models/description.js';
import type { Precision } from '../../src/models/manifest.js';
import { loadModels } from '../../src/models/registry.js';
import type { Backend } from '../../src/runtime/backend.js';

const MODELS = fileURLToPath(new URL('../../../models', import.meta.url));
const NAME = 'ut-mt-ende';
const FOREVER = { deadlineAtMs: null, startByMs: Number.POSITIVE_INFINITY };

export const MAX_STEPS = 6;
export const MODEL_BUDGET: Budget = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 };
export const MAX_NEW_TOKENS = 34;

export const ROOMY: TranslateLimits = {
  encoder: { rowsMax: 512, lanesMax: 64, slotsMax: 1024, finishRowsMax: 512 },
  memoryRowsMax: 1024,
  decoder: { rowsMax: 64, cacheRowsMax: 12_000 },
};

export interface GoldenSentence {
  readonly source: string;
  readonly source_ids: readonly number[];
  readonly encoder_depth: readonly number[];
  /** With `</s>`. */
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly decoder_depth: readonly number[];
  /** Least distance of any halting sum to the threshold, and of any best token to the second best. */
  readonly margin: number;
  readonly gap: number;
}

export function goldenSentences(): readonly GoldenSentence[] {
  return JSON.parse(readFileSync(join(MODELS, NAME, 'golden.json'), 'utf8')) as GoldenSentence[];
}

export async function translationModel(precision: Precision): Promise<ModelDescription> {
  const { models, refused } = await loadModels({ folder: MODELS, only: [NAME], precision });
  const [model] = models;
  if (model === undefined) throw new Error(`the shipped package is refused: ${refused[0]?.reason}`);
  return model;
}

/** With pools for these limits, and so for any smaller ones. */
export async function openTranslation(
  backend: Backend,
  precision: Precision,
  { encoder, memoryRowsMax, decoder }: TranslateLimits = ROOMY,
): Promise<Translation> {
  return Translation.open(backend, await translationModel(precision), {
    encoderSlots: encoder.slotsMax,
    memoryRows: memoryRowsMax,
    decoder: { slots: 2 * decoder.rowsMax, cacheRows: decoder.cacheRowsMax },
  });
}

export interface Sentence {
  readonly ids: Int32Array;
  readonly encoderBudget: Budget;
  readonly decoderBudget: Budget;
  readonly beam: number;
  readonly lengthPenalty: number;
  readonly maxNewTokens: number;
  /** Turns before this sentence is submitted. */
  readonly submitBefore: number;
}

export function sentence(ids: readonly number[], changes: Partial<Sentence> = {}): Sentence {
  return {
    ids: Int32Array.from(ids),
    encoderBudget: MODEL_BUDGET,
    decoderBudget: MODEL_BUDGET,
    beam: 1,
    lengthPenalty: 1,
    maxNewTokens: MAX_NEW_TOKENS,
    submitBefore: 0,
    ...changes,
  };
}

function jobOf(id: number, { ids, maxNewTokens, submitBefore: _, ...settings }: Sentence): TranslateJob {
  const job = {
    kind: 'translate',
    id,
    model: NAME,
    streamTokens: false,
    submittedAtMs: 0,
    deadlineAtMs: null,
  } as const;
  return { ...job, ...settings, sentences: [ids], maxNewTokens: [maxNewTokens] };
}

/** Translates all sentences, a job each, in one engine under `limits`; results in their order. */
export async function translateAll(
  family: Translation,
  sentences: readonly Sentence[],
  limits: TranslateLimits = ROOMY,
): Promise<SentenceResult[]> {
  const stage = new TranslateStage(
    { id: NAME, maxSteps: MAX_STEPS, bosId: 1, eosId: 2, contextTokens: 128, family },
    limits,
  );
  const results: SentenceResult[] = new Array(sentences.length);
  const upcoming = new Map(sentences.entries());
  for (let turns = 0; ; turns++) {
    for (const [jobId, upcomingSentence] of upcoming) {
      if (upcomingSentence.submitBefore > turns) continue;
      upcoming.delete(jobId);
      stage.submit(jobOf(jobId, upcomingSentence), FOREVER);
    }
    const turn = await stage.turn(() => 0);
    if (turn === null && upcoming.size === 0) break;
    for (const { message } of turn?.messages ?? []) {
      if (message.type !== 'sentence') continue;
      results[message.jobId] = message.result;
      stage.settle(message.jobId);
    }
  }
  const { slotsUsed, cacheRowsUsed } = stage.gauges();
  if (Object.keys(results).length !== sentences.length || slotsUsed + cacheRowsUsed > 0) {
    throw new Error('a sentence was lost, or left rows behind');
  }
  return results;
}

export async function translateAlone(family: Translation, alone: Sentence): Promise<SentenceResult> {
  const [result] = await translateAll(family, [{ ...alone, submitBefore: 0 }]);
  return result as SentenceResult;
}
