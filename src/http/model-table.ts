import { ServerError } from '../errors.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { shorten } from './validation.js';

/** The models that are served, and the packages that were refused: both may change when the engine restarts. */
export interface ModelTable {
  readonly served: () => readonly ModelDescription[];
  readonly refused: () => readonly RefusedModel[];
}

/**
 * The model of that name; without a name, the only one.
 * @throws ServerError UNKNOWN_MODEL, or INVALID_REQUEST when a name is needed
 */
export function modelNamed(models: ModelTable, name: string | undefined): ModelDescription {
  const served = models.served();
  const names = served.map(({ id }) => id).join(', ');
  if (name === undefined) {
    const [only, ...others] = served;
    if (only !== undefined && others.length === 0) return only;
    throw new ServerError('INVALID_REQUEST', `model is required: one of ${names}`, 'model');
  }
  const model = served.find(({ id }) => id === name);
  if (model !== undefined) return model;
  const refusal = models.refused().find(({ id }) => id === name);
  const reason = refusal === undefined ? 'is not served' : `was refused (${refusal.reason})`;
  throw new ServerError('UNKNOWN_MODEL', `model '${shorten(name)}' ${reason}: use one of ${names}`, 'model');
}
