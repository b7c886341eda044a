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
  /** Why a model with attention spans won't do, after its name; absent where it does. */
  readonly notWithSpans?: string;
}

/** For `bench` and `tune`. */
export const MEASURED: Ability = {
  task: 'score',
  does: 'scores text by depth',
  doesNot: 'does not score text',
  notWithSpans: 'has one depth for all tokens, and this measures depth',
};

/**
 * The rule is that of the server (`modelFor` in http/model-table.ts): a model with attention spans takes other flags than the rest, so
 * without a name it is meant only where there is no other.
 * @throws UsageError or CommandError when there is none, or several to choose from
 */
export async function chooseModel(
  config: Config,
  name: string | undefined,
  ability: Ability,
  load: typeof loadModels,
): Promise<ModelDescription> {
  const only = name !== undefined ? [name] : config.modelList.length > 0 ? config.modelList : null;
  const { models, refused } = await load({ folder: config.models, only, precision: config.precision });
  const able = models.filter((model) => whyNot(model, ability) === null);
  const usual = able.filter(({ span }) => span === undefined);
  const [model, ...others] = usual.length > 0 ? usual : able;
  if (model !== undefined && others.length === 0) return model;
  if (model !== undefined) {
    throw new UsageError(`which model? Choose one with --model: ${able.map(({ id }) => id).join(', ')}`);
  }
  const [unable] = models;
  if (name !== undefined && unable !== undefined) {
    throw new UsageError(`${name} ${whyNot(unable, ability)}: choose another --model, or leave it out`);
  }
  throw new CommandError(
    refused.length > 0
      ? refused.map(({ id, reason }) => `cannot use ${id}: ${reason}`).join('; ')
      : `no model package that ${ability.does} in ${config.models}: set ${config.modelList.length > 0 ? '--model-list or --models' : '--models'}`,
  );
}

/** What a message says of a model that can't do it; null: it can. */
function whyNot({ task, span }: ModelDescription, ability: Ability): string | null {
  if (task !== ability.task) return ability.doesNot;
  return span === undefined ? null : (ability.notWithSpans ?? null);
}
