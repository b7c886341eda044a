/** Thousands of lives of an engine that scores and translates. `PONDER_SIM_SEED=n` runs one again, `PONDER_SIM_COUNT=n` so many instead. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withSeed } from '../seed.js';
import { type Endings, randomScenario, TranslationSimulation } from './translation-simulation.js';

const SEED = 'PONDER_SIM_SEED';
const COUNT = Number(process.env.PONDER_SIM_COUNT ?? 1500);

test('scoring and translating side by side: one answer a job, as if it ran alone; neither stage starves, and all rows come back', async () => {
  const replay = process.env[SEED];
  const seeds = replay === undefined ? Array.from({ length: COUNT }, (_, i) => i + 1) : [Number(replay)];
  const total: Endings = { done: 0, failed: 0, aborted: 0 };
  for (const seed of seeds) {
    await withSeed(seed, SEED, async (random) => {
      const endings = await new TranslationSimulation(randomScenario(random), random).run();
      for (const key of ['done', 'failed', 'aborted'] as const) total[key] += endings[key];
    });
  }
  if (replay !== undefined) return;
  for (const [ending, count] of Object.entries(total)) {
    assert.ok(count > COUNT / 4, `${count} jobs ended as ${ending}: the scenarios miss something`);
  }
});
