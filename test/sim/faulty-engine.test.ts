/** Lives of an engine whose workers fail. `PONDER_SIM_SEED=n` runs one again, `PONDER_SIM_COUNT=n` so many instead. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withSeed } from '../seed.js';
import { FaultySimulation, type Tally } from './faulty-engine.js';
import { Timeline } from './timeline.js';

const SEED = 'PONDER_SIM_SEED';
const COUNT = Number(process.env.PONDER_SIM_COUNT ?? 300);

test('whatever fails, every request is answered once and rightly, and the engine comes back with all its permits', async () => {
  const replay = process.env[SEED];
  const total: Tally = {};
  const first = replay === undefined ? 1 : Number(replay);
  for (let seed = first; seed < first + (replay === undefined ? COUNT : 1); seed++) {
    await withSeed(seed, SEED, async (random) => {
      const tally = await new FaultySimulation(random, new Timeline()).run();
      for (const [what, count] of Object.entries(tally)) total[what] = (total[what] ?? 0) + count;
    });
  }
  if (replay !== undefined || COUNT < 100) return;
  for (const what of ['throw', 'hang', 'nan', 'slow', 'killed', 'memory', 'jump', 'OK', 'ENGINE_LOST', 'NOT_READY']) {
    assert.ok((total[what] ?? 0) > COUNT / 50, `${what} ${total[what] ?? 0} times: the schedules miss something`);
  }
});

test('a failing seed is named, with the command that runs it again', async () => {
  const failing = withSeed(1234, SEED, () => assert.fail('an invariant'));
  await assert.rejects(failing, /^Error: seed 1234 \(replay: PONDER_SIM_SEED=1234 npm test\): an invariant$/);
});
