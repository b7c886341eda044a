/** Which package a benchmark measures: a scoring one, named or the only one there is. */
import type { Config } from '../config.js';
import type { ModelDescription } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { CommandError, UsageError } from './command.js';

/** @throws UsageError when there is a choice, CommandError when there is none */
export async function loadScorer(config: Config, name: string | undefined): Promise<ModelDescription> {
  const only = name !== undefined ? [name] : config.modelList.length > 0 ? config.modelList : null;
  const { models, refused } = await loadModels({ folder: config.models, only, precision: config.precision });
  const [named] = models;
  if (name !== undefined && named?.span !== undefined) {
    throw new UsageError(`${name} has one depth for all tokens, and this measures depth: choose another --model`);
  }
  const scorers = models.filter(({ task, span }) => task === 'score' && span === undefined);
  const [model, ...others] = scorers;
  if (model !== undefined && others.length === 0) return model;
  if (model !== undefined) {
    throw new UsageError(`which model? Choose one with --model: ${scorers.map(({ id }) => id).join(', ')}`);
  }
  if (name !== undefined && models.length > 0)
    throw new UsageError(`${name} does not score text: choose another --model`);
  const reasons = refused.map(({ id, reason }) => `cannot use ${id}: ${reason}`).join('; ');
  throw new CommandError(reasons || `no scoring package in ${config.models}: set --models`);
}
