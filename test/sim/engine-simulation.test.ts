/** Thousands of lives of an engine. `PONDER_SIM_SEED=n` runs one again, `PONDER_SIM_COUNT=n` so many instead. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withSeed } from '../seed.js';
import { type Endings, randomScenario, Simulation } from './simulation.js';

const SEED = 'PONDER_SIM_SEED';
const COUNT = Number(process.env.PONDER_SIM_COUNT ?? 3000);

test('every job is answered once and as if it ran alone, limits hold in every step, and nothing is left behind', async () => {
  const replay = process.env[SEED];
  const total: Endings = { done: 0, failed: 0, aborted: 0 };
  for (
    let seed = replay === undefined ? 1 : Number(replay), left = replay === undefined ? COUNT : 1;
    left > 0;
    left--, seed++
  ) {
    await withSeed(seed, SEED, async (random) => {
      const endings = await new Simulation(randomScenario(random), random).run();
      for (const key of ['done', 'failed', 'aborted'] as const) total[key] += endings[key];
    });
  }
  if (replay !== undefined) return;
  for (const [ending, count] of Object.entries(total)) {
    assert.ok(count > COUNT / 4, `${count} jobs ended as ${ending}: the scenarios miss something`);
  }
});
