import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { planWindows, windowCost } from '../../src/engine/windows.js';

const sizes = fc
  .record({ tokens: fc.integer({ min: 1, max: 3000 }), context: fc.integer({ min: 1, max: 600 }) })
  .chain(({ tokens, context }) => fc.integer({ min: 1, max: context }).map((stride) => ({ tokens, context, stride })));

test('the windows of the drawing', () => {
  assert.deepEqual(planWindows(10, 4, 2), [
    { start: 0, end: 4, scoreFrom: 0 },
    { start: 2, end: 6, scoreFrom: 2 },
    { start: 4, end: 8, scoreFrom: 2 },
    { start: 6, end: 10, scoreFrom: 2 },
  ]);
});

test('a text that fits is one window', () => {
  assert.deepEqual(planWindows(4, 4, 1), [{ start: 0, end: 4, scoreFrom: 0 }]);
  assert.deepEqual(planWindows(1, 4, 4), [{ start: 0, end: 1, scoreFrom: 0 }]);
});

test('every token is scored exactly once, in order, and the last window ends with the text', () => {
  fc.assert(
    fc.property(sizes, ({ tokens, context, stride }) => {
      let next = 0;
      const spans = planWindows(tokens, context, stride);
      for (const { start, end, scoreFrom } of spans) {
        assert.equal(start + scoreFrom, next, 'begins where the one before ended');
        assert.ok(end - start <= context && end > next, 'fits, and scores something');
        next = end;
      }
      assert.equal(next, tokens);
    }),
  );
});

test('windows begin a stride apart, and all but the last are full', () => {
  fc.assert(
    fc.property(sizes, ({ tokens, context, stride }) => {
      const spans = planWindows(tokens, context, stride);
      for (const [i, { start, end }] of spans.entries()) {
        assert.equal(start, i * stride);
        if (i < spans.length - 1) assert.equal(end - start, context);
      }
    }),
  );
});

test('after the first window each token has at least context - stride tokens before it', () => {
  fc.assert(
    fc.property(sizes, ({ tokens, context, stride }) => {
      for (const { scoreFrom } of planWindows(tokens, context, stride).slice(1)) {
        assert.equal(scoreFrom, context - stride);
      }
    }),
  );
});

test('the cost is known without making the windows', () => {
  fc.assert(
    fc.property(sizes, ({ tokens, context, stride }) => {
      const spans = planWindows(tokens, context, stride);
      assert.deepEqual(windowCost(tokens, context, stride), {
        windows: spans.length,
        tokens: spans.reduce((sum, { start, end }) => sum + end - start, 0),
      });
    }),
  );
});
