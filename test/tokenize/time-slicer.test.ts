import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TimeSlicer } from '../../src/tokenize/time-slicer.js';

/** A clock that each step of work moves on by one millisecond, and an event loop that the test turns by hand. */
function fakeLoop() {
  const log: string[] = [];
  const turns: (() => void)[] = [];
  let nowMs = 0;
  const slicer = new TimeSlicer(
    3,
    () => nowMs,
    (callback) => turns.push(callback),
  );
  return {
    log,
    slicer,
    turn: () => turns.shift()?.(),
    pending: () => turns.length,
    *work(name: string, stepsMs: number): Generator<void, string> {
      for (let i = 0; i < stepsMs; i++) {
        nowMs++;
        log.push(name);
        if (i + 1 < stepsMs) yield;
      }
      return name;
    },
  };
}

test('work that fits finishes in the same turn', async () => {
  const loop = fakeLoop();
  assert.equal(await loop.slicer.run(loop.work('a', 2)), 'a');
  assert.equal(loop.pending(), 1);
  loop.turn();
  assert.equal(loop.pending(), 0, 'an idle slicer leaves the event loop alone');
});

test('a turn is shared: what does not fit waits for the next, in rotation', async () => {
  const loop = fakeLoop();
  const all = Promise.all([
    loop.slicer.run(loop.work('a', 5)),
    loop.slicer.run(loop.work('b', 4)),
    loop.slicer.run(loop.work('c', 1)),
  ]);
  assert.equal(loop.log.join(''), 'aaa');
  loop.turn();
  assert.equal(loop.log.join(''), 'aaaaab');
  loop.turn();
  assert.equal(loop.log.join(''), 'aaaaabcbb');
  loop.turn();
  assert.equal(loop.log.join(''), 'aaaaabcbbb');
  assert.deepEqual(await all, ['a', 'b', 'c']);
});

test('an error reaches its caller only', async () => {
  const loop = fakeLoop();
  const failing = loop.slicer.run(
    // biome-ignore lint/correctness/useYield: it fails before it could.
    (function* (): Generator<void, never> {
      throw new Error('broken');
    })(),
  );
  await assert.rejects(failing, /broken/);
  assert.equal(await loop.slicer.run(loop.work('b', 1)), 'b');
});
