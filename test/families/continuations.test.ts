/** Greedy continuations of 20 prompts against PyTorch, which recomputes the whole text for each token (export/continuations.py). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Generation } from '../../src/families/generation.js';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { shippedModel } from '../shipped-package.js';
import { continueAll, POOLS } from './generating.js';
import { ROOMY } from './scoring.js';

/** Where the best token leads the second by less, either may be said, and what follows is another text. */
const TIE = 1e-4;
/** A depth may differ only where PyTorch's own halting sum is this close to the threshold. */
const MARGIN_MIN = 1e-5;
/** Of a log-probability, with the rounding of the file. */
const TOLERANCE = 1e-4 + 5.1e-5;

interface Continuation {
  readonly prompt: readonly number[];
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly depth: readonly number[];
  /** How far the best token led the second. */
  readonly gaps: readonly number[];
  /** Least distance of any halting sum to the threshold. */
  readonly margin: number;
}

/** Compiled tests lie in dist/test. */
const FILE = fileURLToPath(new URL('../../../test/families/continuations.json', import.meta.url));

test('float32: 20 prompts are continued as by PyTorch, token by token and depth by depth', async () => {
  const cases = JSON.parse(readFileSync(FILE, 'utf8')) as readonly Continuation[];
  const backend = openOrtCapi({ threads: 2, spin: false });
  const model = await shippedModel('float32');
  const scorer = await UniversalTransformer.open(backend, model, ROOMY);
  const family = new Generation(backend, model, scorer, POOLS);
  const asked = cases.map(({ prompt, ids }) => ({ prompt: Int32Array.from(prompt), maxNewTokens: ids.length }));
  const said = await continueAll(family, asked);
  let compared = 0;
  cases.forEach(({ prompt, ids, logprobs, depth, gaps, margin }, i) => {
    assert.ok(margin > MARGIN_MIN, `prompt ${i}: a depth may go either way, take another prompt`);
    const { ids: own, logprobs: ownLogprobs, depths } = said[i] as (typeof said)[number];
    for (const [t, id] of ids.entries()) {
      if ((gaps[t] as number) < TIE && own[t] !== id) break;
      const where = `token ${t} after a prompt of ${prompt.length}`;
      assert.equal(own[t], id, where);
      assert.equal(depths[t], depth[t], `depth of ${where}`);
      const off = Math.abs((ownLogprobs[t] as number) - (logprobs[t] as number));
      assert.ok(off <= TOLERANCE, `log-probability of ${where} differs by ${off}`);
      compared += 1;
    }
  });
  const all = cases.reduce((sum, { ids }) => sum + ids.length, 0);
  assert.equal(cases.length, 20);
  assert.ok(compared > 0.9 * all, `${compared} of ${all} tokens`);
  family.release();
  scorer.release();
  backend.release();
});
