import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clockTime, Progress, progressBar } from '../../src/cli/progress.js';
import { excerpt, table } from '../../src/cli/terminal.js';
import { Recorder } from './streams.js';

test('a table aligns its columns and leaves no trailing blanks', () => {
  assert.equal(
    table(
      [
        ['a', '1', 'x'],
        ['long', '100', ''],
      ],
      [1],
    ),
    'a       1  x\nlong  100\n',
  );
});

test('an excerpt is one line of at most so many characters', () => {
  assert.equal(excerpt('a\n b\tc', 10), 'a b c');
  assert.equal(excerpt('abcdefghij', 5), 'abcd…');
  assert.equal(excerpt('🙂🙂🙂', 3), '🙂🙂🙂');
  assert.equal([...excerpt('x'.repeat(1e6), 20)].length, 20);
});

test('the bar shows share, rate and what is left, and fits the columns', () => {
  const state = { label: 'scoring', done: 3000, total: 6000, elapsedMs: 2000 };
  assert.equal(progressBar(state, 60), `scoring ${'━'.repeat(9)}${'─'.repeat(9)}  50 %  1,500 tokens/s  0:02 left`);
  for (const columns of [1, 10, 40, 80, 400]) assert.ok(progressBar(state, columns).length < Math.max(columns, 1.5));
  assert.match(progressBar({ ...state, done: 0 }, 80), /0 % {2}0 tokens\/s$/);
});

test('times are minutes and seconds, with hours when there are any', () => {
  assert.deepEqual([0, 59_400, 61_000, 3_661_000].map(clockTime), ['0:00', '0:59', '1:01', '1:01:01']);
});

/** Reports progress every `everyMs` over `totalMs` and returns what was written. */
function watch(isTTY: boolean, totalMs: number, everyMs: number): string {
  let nowMs = 0;
  const stream = new Recorder(isTTY);
  const progress = new Progress(stream, 'scoring', totalMs, () => nowMs);
  for (; nowMs <= totalMs; nowMs += everyMs) progress.update(nowMs);
  progress.end();
  return stream.text;
}

test('short work shows nothing', () => {
  assert.equal(watch(true, 900, 10), '');
  assert.equal(watch(false, 900, 10), '');
});

test('a terminal gets a bar ten times a second that is taken away at the end', () => {
  const text = watch(true, 3000, 10);
  assert.equal(text.match(/\r/g)?.length, 22);
  assert.ok(text.endsWith('\r\x1b[K'));
});

test('a log gets a line for every tenth', () => {
  assert.deepEqual(
    watch(false, 10_000, 10).trim().split('\n'),
    [10, 20, 30, 40, 50, 60, 70, 80, 90, 100].map((percent) => `scoring ${percent} %`),
  );
});
