import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Watchdog } from '../../src/engine/watchdog.js';
import { Timeline } from '../sim/timeline.js';

function watched(limitMs = 1000) {
  const timeline = new Timeline();
  const stalls: number[] = [];
  const dog = new Watchdog(
    limitMs,
    () => timeline.nowMs,
    (ms, fire) => timeline.after(ms, fire),
    () => stalls.push(timeline.nowMs),
  );
  return { timeline, dog, stalls };
}

test('silence of the limit while there is work is a stall, told once', () => {
  const { timeline, dog, stalls } = watched();
  dog.watch();
  timeline.passTo(999);
  assert.deepEqual(stalls, []);
  timeline.passTo(5000);
  assert.deepEqual(stalls, [1000]);
});

test('each sign of life begins the time anew; without work there is none', () => {
  const { timeline, dog, stalls } = watched();
  dog.watch();
  timeline.passTo(900);
  dog.heard();
  timeline.passTo(1800);
  assert.deepEqual(stalls, []);
  dog.rest();
  timeline.passTo(60_000);
  assert.deepEqual(stalls, []);
  dog.watch();
  timeline.passTo(61_000);
  assert.deepEqual(stalls, [61_000], 'the time before it had work does not count');
});

test('a clock that jumps is no stall: the thread had no time either', () => {
  for (const jumpMs of [3_600_000, -3_600_000]) {
    const { timeline, dog, stalls } = watched();
    timeline.passTo(10_000);
    dog.watch();
    timeline.jump(jumpMs);
    timeline.passTo(timeline.nowMs + 1500);
    assert.deepEqual(stalls, [], `jump of ${jumpMs} ms`);
    timeline.passTo(timeline.nowMs + 2000);
    assert.equal(stalls.length, 1, 'and silence after it is one');
  }
});
