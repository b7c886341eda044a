/** The stages of a model on the CPU, and what they share: a model's graphs are opened once, whatever is done with it. */
import { monotonicMs } from '../clock.js';
import { AdaptiveSpan } from '../families/adaptive-span.js';
import { Generation } from '../families/generation.js';
import { Translation } from '../families/translation.js';
import { UniversalTransformer } from '../families/universal-transformer.js';
import type { ModelDescription, SpanDescription } from '../models/description.js';
import type { Backend } from '../runtime/backend.js';
import type { SchedulerLimits } from '../scheduler/scheduler.js';
import { GenerateStage } from './generate-stage.js';
import { ScoreStage } from './score-stage.js';
import type { SessionLimits } from './sessions.js';
import { SpanGenerateStage } from './span-generate-stage.js';
import { SpanStage } from './span-stage.js';
import type { Stage } from './stage.js';
import { TranslateStage } from './translate-stage.js';

export interface ModelSetup {
  readonly limits: SchedulerLimits;
  readonly cacheRowsMax: number;
  readonly span: { readonly lanesMax: number; readonly blockTokens: number } & SessionLimits;
}

export interface Opened {
  readonly stages: readonly Stage[];
  readonly release: () => void;
  /** Its graphs run on a GPU. */
  readonly onDevice?: true;
}

/**
 * @param onDevice a GPU translates or scores with the model; what it does not do is done here
 * Throws RuntimeFailure when a graph can't be opened or is not the one described.
 */
export async function openModel(
  backend: Backend,
  model: ModelDescription,
  setup: ModelSetup,
  onDevice: boolean,
): Promise<Opened[]> {
  if (model.span !== undefined) return [await openSpanModel(backend, model, model.span, setup)];
  switch (model.task) {
    case 'score':
      return [await openLanguageModel(backend, model, setup, onDevice)];
    case 'translate':
      return onDevice ? [] : [await openTranslation(backend, model, setup)];
    default:
      return model.task satisfies never;
  }
}

async function openLanguageModel(
  backend: Backend,
  model: ModelDescription,
  { limits, cacheRowsMax }: ModelSetup,
  onDevice: boolean,
): Promise<Opened> {
  const { id, maxSteps, contextTokens } = model;
  const family = await UniversalTransformer.open(backend, model, limits);
  // A whole context, and one position more while its last keys are renewed.
  const slotsMax = Math.max(limits.slotsMax, contextTokens + 1);
  let generation: Generation | null = null;
  const open = () => {
    generation = new Generation(backend, model, family, { slots: slotsMax, cacheRows: cacheRowsMax });
    return generation;
  };
  const generate = new GenerateStage({ id, maxSteps, contextTokens, open }, { ...limits, slotsMax, cacheRowsMax });
  const stages = onDevice ? [generate] : [new ScoreStage({ id, maxSteps, family }, limits), generate];
  const release = () => {
    generation?.release();
    family.release();
  };
  return { stages, release };
}

async function openSpanModel(
  backend: Backend,
  model: ModelDescription,
  span: SpanDescription,
  { limits: { rowsMax }, span: sizes }: ModelSetup,
): Promise<Opened> {
  const { id, bosId, vocabularySize } = model;
  const { lanesMax, blockTokens } = sizes;
  const family = await AdaptiveSpan.open(backend, model, lanesMax, blockTokens);
  const limits = { lanesMax, rowsMax, blockTokens };
  let generating: AdaptiveSpan | null = null;
  const open = () => {
    generating = family.another();
    return generating;
  };
  const stages = [
    new SpanStage({ id, bosId, span, family }, limits, sizes, monotonicMs),
    new SpanGenerateStage({ id, bosId, vocabularySize, span, open }, limits),
  ];
  const release = () => {
    generating?.release();
    family.release();
  };
  return { stages, release };
}

async function openTranslation(
  backend: Backend,
  model: ModelDescription,
  { limits, cacheRowsMax }: ModelSetup,
): Promise<Opened> {
  const { id, maxSteps, bosId, eosId, contextTokens } = model;
  const decoder = { rowsMax: limits.rowsMax, cacheRowsMax };
  // Half the rows of a step: what waits behind an encoder step are the tokens of translations under way.
  const encoder = { ...limits, rowsMax: Math.max(contextTokens, Math.floor(limits.rowsMax / 2)) };
  const family = await Translation.open(backend, model, {
    encoderSlots: limits.slotsMax,
    memoryRows: limits.slotsMax,
    decoder: { slots: 2 * decoder.rowsMax, cacheRows: cacheRowsMax },
  });
  const stage = new TranslateStage(
    { id, maxSteps, bosId, eosId, contextTokens, family },
    { encoder, memoryRowsMax: limits.slotsMax, decoder },
  );
  return { stages: [stage], release: () => family.release() };
}
