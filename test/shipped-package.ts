/** The package in git, models/ut-lm-en: the tests that need real weights use it as it is. */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ModelDescription } from '../src/models/description.js';
import type { Precision } from '../src/models/manifest.js';
import { loadModels } from '../src/models/registry.js';

/** Compiled tests lie in dist/test. */
const MODELS = fileURLToPath(new URL('../../models', import.meta.url));
export const SHIPPED = 'ut-lm-en';

export async function shippedModel(precision: Precision): Promise<ModelDescription> {
  const { models, refused } = await loadModels({ folder: MODELS, only: [SHIPPED], precision });
  const [model] = models;
  if (model === undefined) throw new Error(`the shipped package is refused: ${refused[0]?.reason}`);
  return model;
}

/** The model over a copy of the package that a test may spoil after the hashes were checked; removed after the test. */
export async function spoiltModel(
  t: TestContext,
  precision: Precision,
  spoil: (folder: string) => void,
): Promise<ModelDescription> {
  const model = await shippedModel(precision);
  const folder = mkdtempSync(join(tmpdir(), 'ponder-package-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  cpSync(model.folder, folder, { recursive: true });
  spoil(folder);
  return { ...model, folder };
}

export interface GoldenText {
  readonly text: string;
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly depth: readonly number[];
  readonly remainder: readonly number[];
  /** Least distance of the halting sum to the threshold over the position's steps. */
  readonly margin: readonly number[];
}

export function goldenTexts(): readonly GoldenText[] {
  return JSON.parse(readFileSync(join(MODELS, SHIPPED, 'golden.json'), 'utf8')) as GoldenText[];
}
