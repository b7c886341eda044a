/** Every native handle has one owner and is released: a backend and a package are opened, run and closed 200 times. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { MODEL_BUDGET, scoreAlone } from '../families/scoring.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';

const ROUNDS = 200;
const WARM_UP = 20;
/** Half a megabyte a round; a session lost would add 8. The allocator alone moves by 25 MB either way. */
const GROWTH_BYTES_MAX = 80e6;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] as number;

test('200 times open, score, close: no handle is left, and memory is flat', async () => {
  const model = await shippedModel('int8');
  const ids = Int32Array.from(goldenTexts()[1]?.ids ?? []);
  const limits = { rowsMax: 16, lanesMax: 4, slotsMax: 16, finishRowsMax: 16 };
  const resident: number[] = [];
  let first: Float32Array | null = null;
  for (let round = 0; round < ROUNDS; round++) {
    const backend = openOrtCapi({ threads: 2, spin: false });
    const family = await UniversalTransformer.open(backend, model, limits);
    const { logprobs } = await scoreAlone(family, { ids, budget: MODEL_BUDGET, topCount: round % 3 });
    first ??= logprobs;
    assert.deepEqual(logprobs, first, 'a new session computes what the first one did');
    family.release();
    await backend.release();
    assert.equal(backend.liveHandles(), 0, `round ${round}`);
    collectGarbage();
    resident.push(process.memoryUsage.rss());
  }
  const growth = median(resident.slice(-60)) - median(resident.slice(WARM_UP, WARM_UP + 60));
  assert.ok(growth < GROWTH_BYTES_MAX, `${Math.round(growth / 1e6)} MB more resident`);
});
