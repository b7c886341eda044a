/** How much work enters a turn of the event loop. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turnstile } from '../../src/http/turnstile.js';

/** Turns come when the test says so. */
function turnstile(costMax: number, costMin: number) {
  let pending: (() => void)[] = [];
  const own = new Turnstile(costMax, costMin, (callback) => pending.push(callback));
  const entered: string[] = [];
  const settle = async () => {
    for (let i = 0; i < 10; i++) await Promise.resolve();
  };
  return {
    entered,
    enter: async (name: string, cost: number) => {
      void own.enter(cost).then(() => entered.push(name));
      await settle();
    },
    turn: async () => {
      const due = pending;
      pending = [];
      for (const callback of due) callback();
      await settle();
      return due.length;
    },
  };
}

test('what fits enters at once, the rest in the turns that follow, in its order', async () => {
  const { entered, enter, turn } = turnstile(100, 10);
  for (const [name, cost] of [
    ['a', 40],
    ['b', 60],
    ['c', 1],
    ['d', 95],
    ['e', 1],
  ] as const)
    await enter(name, cost);
  assert.deepEqual(entered, ['a', 'b']);
  await turn();
  assert.deepEqual(entered, ['a', 'b', 'c'], 'd does not fit beside c, and e does not overtake it');
  await turn();
  assert.deepEqual(entered, ['a', 'b', 'c', 'd']);
  await turn();
  assert.deepEqual(entered, ['a', 'b', 'c', 'd', 'e']);
});

test('the least counts for something, and what is too large for any turn has one for itself', async () => {
  const { entered, enter, turn } = turnstile(20, 10);
  for (const name of ['a', 'b', 'c']) await enter(name, 0);
  assert.deepEqual(entered, ['a', 'b']);
  await enter('huge', 1000);
  await turn();
  assert.deepEqual(entered, ['a', 'b', 'c']);
  await turn();
  assert.deepEqual(entered, ['a', 'b', 'c', 'huge']);
});

test('with nothing to do no turn is asked for', async () => {
  const { enter, turn } = turnstile(20, 10);
  await enter('a', 1);
  assert.equal(await turn(), 1);
  assert.equal(await turn(), 0);
});

test('many bodies at once: timers fire between them', async () => {
  const real = new Turnstile(100, 1);
  let timers = 0;
  const timer = setInterval(() => timers++, 1);
  const burn = async () => {
    await real.enter(60);
    for (const until = performance.now() + 2; performance.now() < until; );
  };
  await Promise.all(Array.from({ length: 20 }, burn));
  clearInterval(timer);
  assert.ok(timers >= 10, `${timers} timers fired in 40 ms of work`);
});
