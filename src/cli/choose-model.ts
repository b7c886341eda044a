/** Which package a command uses: the one named, or the only one that can do what is asked. */
import type { Config } from '../config.js';
import type { ModelDescription } from '../models/description.js';
import type { loadModels } from '../models/registry.js';
import { CommandError, UsageError } from './command.js';

/** What is asked of a model, as messages say it. */
export interface Ability {
  readonly task: ModelDescription['task'];
  /** "translates": follows "that" and the name of a package. */
  readonly does: string;
  readonly doesNot: string;
}

/** @throws UsageError or CommandError when there is none, or several to choose from */
export async function chooseModel(
  config: Config,
  name: string | undefined,
  { task, does, doesNot }: Ability,
  load: typeof loadModels,
): Promise<ModelDescription> {
  const only = name !== undefined ? [name] : config.modelList.length > 0 ? config.modelList : null;
  const { models, refused } = await load({ folder: config.models, only, precision: config.precision });
  const able = models.filter((model) => model.task === task);
  const [model, ...others] = able;
  if (model !== undefined && others.length === 0) return model;
  if (model !== undefined) {
    throw new UsageError(`which model? Choose one with --model: ${able.map(({ id }) => id).join(', ')}`);
  }
  if (name !== undefined && models.length > 0) {
    throw new UsageError(`${name} ${doesNot}: choose another --model, or leave it out`);
  }
  throw new CommandError(
    refused.length > 0
      ? refused.map(({ id, reason }) => `cannot use ${id}: ${reason}`).join('; ')
      : `no model package that ${does} in ${config.models}: set --models`,
  );
}
