import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadModels } from '../../src/models/registry.js';

const MODELS = fileURLToPath(new URL('../../../models', import.meta.url));

for (const precision of ['int8', 'float32'] as const) {
  test(`every package of this repository is intact and served in ${precision}`, async () => {
    const { models, refused } = await loadModels({ folder: MODELS, only: null, precision });
    assert.deepEqual(refused, []);
    assert.deepEqual(
      models.map((model) => model.id),
      readdirSync(MODELS).sort(),
    );
    for (const model of models) structuredClone(model); // it crosses to the engine's thread
  });
}
