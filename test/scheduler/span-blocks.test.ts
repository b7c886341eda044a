/** How a text is cut into blocks and units. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { blockLength, unitLength, unitOfBlock } from '../../src/scheduler/span-blocks.js';

/** All blocks of a text. */
function blocksOf(tokens: number, blockTokens: number): number[] {
  const blocks: number[] = [];
  for (let left = tokens; left > 0; left -= blocks.at(-1) as number)
    blocks.push(blockLength(tokens, left, blockTokens));
  return blocks;
}

test('blocks are whole units, the last one no longer than it must be', () => {
  assert.deepEqual(blocksOf(300, 128), [128, 128, 64]);
  assert.deepEqual(blocksOf(300, 64), [64, 64, 64, 64, 64]);
  assert.deepEqual(blocksOf(64, 512), [64]);
  assert.deepEqual(blocksOf(65, 512), [128]);
  assert.deepEqual(blocksOf(20, 128), [32]);
  assert.deepEqual(blocksOf(50, 32), [32, 32]);
});

test('the units of a text do not depend on the length of blocks', () => {
  const length = fc.integer({ min: 1, max: 2000 });
  fc.assert(
    fc.property(length, fc.constantFrom(64, 128, 256, 512), (tokens, blockTokens) => {
      const units = (of: number) =>
        blocksOf(tokens, of).flatMap((block) => new Array(block / unitOfBlock(block)).fill(unitOfBlock(block)));
      assert.deepEqual(units(blockTokens), units(64));
      assert.ok(units(blockTokens).every((unit) => unit === unitLength(tokens, blockTokens)));
    }),
  );
});
