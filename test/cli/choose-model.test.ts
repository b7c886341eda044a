/** One rule for every command, and it is the server's. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Ability, chooseModel, MEASURED } from '../../src/cli/choose-model.js';
import { UsageError } from '../../src/cli/command.js';
import { parseConfig } from '../../src/config.js';
import { modelFor } from '../../src/http/model-table.js';
import type { ModelDescription } from '../../src/models/description.js';
import { loadModels } from '../../src/models/registry.js';
import { describeSpanModel } from '../fake-span.js';
import { describeModel, describeTranslator } from '../fakes.js';

const CONFIG = parseConfig([], {});
const SCORES = { task: 'score', does: 'scores text', doesNot: 'does not score text' } as const;
const TRANSLATES = { task: 'translate', does: 'translates', doesNot: 'does not translate' } as const;

function choose(models: readonly ModelDescription[], ability: Ability, name?: string): Promise<ModelDescription> {
  const load = async ({ only }: { readonly only?: readonly string[] | null }) => ({
    models: models.filter(({ id }) => only?.includes(id) ?? true),
    refused: [],
  });
  return chooseModel(CONFIG, name, ability, load as typeof loadModels);
}

test('of every set of models it takes the one that the server takes, or none as the server does', async () => {
  const all = [
    describeModel({ id: 'a' }),
    describeModel({ id: 'b' }),
    describeSpanModel({ id: 'span' }),
    describeTranslator({ id: 'mt' }),
    describeTranslator({ id: 'mt2' }),
  ];
  for (let set = 0; set < 2 ** all.length; set++) {
    const models = all.filter((_, i) => (set >> i) & 1);
    for (const ability of [SCORES, TRANSLATES]) {
      const chosen = await choose(models, ability).then(
        ({ id }) => id,
        () => null,
      );
      assert.equal(chosen, ofServer(models, ability.task), models.map(({ id }) => id).join());
    }
  }
});

function ofServer(served: readonly ModelDescription[], task: ModelDescription['task']): string | null {
  try {
    return modelFor(task, { served: () => served, refused: () => [] }, undefined).id;
  } catch {
    return null;
  }
}

test('the shipped models: each command has its own without being told', async () => {
  for (const [ability, id] of [
    [SCORES, 'ut-lm-en'],
    [MEASURED, 'ut-lm-en'],
    [TRANSLATES, 'ut-mt-ende'],
  ] as const) {
    assert.equal((await chooseModel(CONFIG, undefined, ability, loadModels)).id, id);
  }
});

test('a choice names only what can do it; what is named and cannot is told why', async () => {
  const mt = describeTranslator({ id: 'mt' });
  const span = describeSpanModel({ id: 'span' });
  const two = [describeModel({ id: 'a' }), describeModel({ id: 'b' }), span, mt];
  await assert.rejects(choose(two, SCORES), new UsageError('which model? Choose one with --model: a, b, span'));
  await assert.rejects(choose(two, MEASURED), new UsageError('which model? Choose one with --model: a, b'));
  await assert.rejects(
    choose(two, MEASURED, 'span'),
    /^UsageError: span has one depth for all tokens, and this measures/,
  );
  await assert.rejects(choose(two, SCORES, 'mt'), /mt does not score text: choose another --model, or leave it out/);
  await assert.rejects(choose([mt], SCORES), /no model package that scores text in .*: set --models/);
});
