import { ServerError } from '../errors.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { shorten } from './validation.js';

/** The models that are served, and the packages that were refused: both may change when the engine restarts. */
export interface ModelTable {
  readonly served: () => readonly ModelDescription[];
  readonly refused: () => readonly RefusedModel[];
}

type Task = ModelDescription['task'];

const CAN: Readonly<Record<Task, string>> = {
  score: 'scores text (POST /v1/score)',
  translate: 'translates (POST /v1/translate)',
};

/** Positions of one window; null for a model that reads a text of any length as one. */
export function contextOf({ contextTokens, span }: ModelDescription): number | null {
  return span === undefined ? contextTokens : null;
}

/**
 * @param able those that can do what is asked: the error offers no others
 * @throws ServerError UNKNOWN_MODEL
 */
export function modelNamed(models: ModelTable, name: string, able = models.served()): ModelDescription {
  const model = models.served().find(({ id }) => id === name);
  if (model !== undefined) return model;
  const refusal = models.refused().find(({ id }) => id === name);
  const reason = refusal === undefined ? 'is not served' : `was refused (${refusal.reason})`;
  const remedy = able.length === 0 ? 'none served can do this; see GET /v1/models' : `use one of ${namesOf(able)}`;
  const message = `model '${shorten(name)}' ${reason}: ${remedy}`;
  throw new ServerError('UNKNOWN_MODEL', message, 'model');
}

/**
 * The model of that name; without a name, the only one that has the task. One with attention spans takes other fields than the rest,
 * so without a name it is meant only where there is no other.
 * @param what is asked of it, in the words of errors
 * @throws ServerError UNKNOWN_MODEL, or INVALID_REQUEST when a name is needed or that model has another task
 */
export function modelFor(
  task: Task,
  models: ModelTable,
  name: string | undefined,
  what: string = task,
): ModelDescription {
  const able = models.served().filter((model) => model.task === task);
  if (name !== undefined) {
    const model = modelNamed(models, name, able);
    if (model.task === task) return model;
    const others = able.length === 0 ? 'no model served can' : `use one of ${namesOf(able)}`;
    const message = `model '${model.id}' ${CAN[model.task]}; to ${what}, ${others}`;
    throw new ServerError('INVALID_REQUEST', message, 'model');
  }
  const usual = able.filter(({ span }) => span === undefined);
  const [only, ...others] = usual.length > 0 ? usual : able;
  if (only === undefined) {
    throw new ServerError('UNKNOWN_MODEL', `no model that ${CAN[task]} is served: GET /v1/models lists those that are`);
  }
  if (others.length === 0) return only;
  throw new ServerError('INVALID_REQUEST', `model is required: one of ${namesOf(able)}`, 'model');
}

/**
 * The model that translates from `source` into `target`; either may be left out where one model remains.
 * @throws ServerError as `modelFor`, and INVALID_REQUEST with the pairs when no model has this one
 */
export function translationModel(
  models: ModelTable,
  { model, source, target }: { readonly model?: string; readonly source?: string; readonly target?: string },
): ModelDescription {
  const able = models.served().filter(({ task }) => task === 'translate');
  const candidates = model === undefined ? able : [modelFor('translate', models, model)];
  const fitting = candidates.filter(
    ({ language, targetLanguage }) =>
      (source === undefined || source === language) && (target === undefined || target === targetLanguage),
  );
  const [only, ...others] = fitting;
  if (only !== undefined && others.length === 0) return only;
  if (only !== undefined || candidates.length === 0) {
    return modelFor('translate', { ...models, served: () => fitting }, model);
  }
  const wrong = source !== undefined && !candidates.some(({ language }) => language === source) ? 'source' : 'target';
  const asked = `${shorten(source ?? 'any language')} to ${shorten(target ?? 'any language')}`;
  const pairs = new Set(candidates.map(({ language, targetLanguage }) => `${language} to ${targetLanguage}`));
  throw new ServerError('INVALID_REQUEST', `${asked} is not served: the pairs are ${[...pairs].join(', ')}`, wrong);
}

/**
 * The model with attention spans of that name; without a name, the only one.
 * @throws ServerError UNKNOWN_MODEL or INVALID_REQUEST
 */
export function spanModel(models: ModelTable, name: string | undefined): ModelDescription {
  if (name === undefined) {
    return modelFor(
      'score',
      { ...models, served: () => models.served().filter(({ span }) => span !== undefined) },
      name,
    );
  }
  const able = models.served().filter(({ span }) => span !== undefined);
  const model = modelNamed(models, name, able);
  if (model.span !== undefined) return model;
  const message = `model '${model.id}' has no attention spans, so it keeps no sessions: name one of family adaptive-span`;
  throw new ServerError('INVALID_REQUEST', message, 'model');
}

function namesOf(models: readonly ModelDescription[]): string {
  return models.map(({ id }) => id).join(', ');
}
