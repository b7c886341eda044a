import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CachePool, PrefixNode } from '../../src/scheduler/prefix-cache.js';

/** A pool whose rows are all promised, so that a test can take them. */
function promisedPool(rows: number): CachePool {
  const pool = new CachePool(rows);
  pool.promise(rows);
  return pool;
}

function node(pool: CachePool, parent: PrefixNode | null, rows: number): PrefixNode {
  const made = new PrefixNode(parent, parent === null ? 0 : parent.position + 1);
  for (let depth = 0; depth < rows; depth++) made.rows.push(pool.take());
  return made;
}

function keyRows(of: PrefixNode, step: number): number[] {
  const out = new Int32Array(of.position + 1).fill(-1);
  of.keyRows(step, out);
  return Array.from(out);
}

test('a query at step t sees each position by its row of step min(t, rows)', () => {
  const pool = promisedPool(20);
  const start = node(pool, null, 3);
  const middle = node(pool, start, 1);
  const last = node(pool, middle, 4);
  const [a, b, c] = [start.rows, middle.rows, last.rows];
  assert.deepEqual(keyRows(last, 1), [a[0], b[0], c[0]]);
  assert.deepEqual(keyRows(last, 2), [a[1], b[0], c[1]]);
  assert.deepEqual(keyRows(last, 4), [a[2], b[0], c[3]]);
  assert.deepEqual(keyRows(last, 6), [a[2], b[0], c[3]]);
  assert.deepEqual(keyRows(start, 2), [a[1]]);
});

test('siblings see the same rows of their prefix, and their own', () => {
  const pool = promisedPool(20);
  const prefix = node(pool, null, 2);
  const [left, right] = [node(pool, prefix, 1), node(pool, prefix, 1)];
  assert.equal(pool.used, 4, 'the prefix is there once');
  assert.equal(keyRows(left, 1)[0], keyRows(right, 1)[0]);
  assert.notEqual(keyRows(left, 1)[1], keyRows(right, 1)[1]);
});

test('a prefix lives as long as any of its continuations, whoever leaves first', () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
  ]) {
    const pool = promisedPool(10);
    const prefix = node(pool, null, 2);
    const leaves = [node(pool, prefix, 1), node(pool, prefix, 1), prefix];
    for (const [i, leaf] of order.entries()) {
      (leaves[leaf] as PrefixNode).release(pool);
      const leavesLeft = order.slice(i + 1).filter((left) => left !== 2).length;
      const prefixHeld = i < 2;
      assert.equal(pool.used, leavesLeft + (prefixHeld ? 2 : 0), `${order} after ${i + 1}`);
    }
  }
});

test('the end of one hypothesis gives back its whole branch, up to where another one parts', () => {
  const pool = promisedPool(20);
  const root = node(pool, null, 1);
  const fork = node(pool, root, 1);
  const branches = [0, 1].map(() => node(pool, node(pool, fork, 2), 3));
  const release = (newest: PrefixNode) => {
    // As the scheduler does: each position's own hold ends with its position, its children hold it from then on.
    newest.parent?.release(pool);
    newest.release(pool);
  };
  root.release(pool);
  fork.release(pool);
  assert.equal(pool.used, 12);
  release(branches[0] as PrefixNode);
  assert.equal(pool.used, 7);
  release(branches[1] as PrefixNode);
  assert.equal(pool.used, 0);
});

test('a pool gives every row once, and gives again what came back', () => {
  const pool = promisedPool(5);
  const rows = Array.from({ length: 5 }, () => pool.take());
  assert.deepEqual(rows.toSorted(), [0, 1, 2, 3, 4]);
  assert.throws(() => pool.take(), /not promised/);
  pool.give([3, 1]);
  pool.promise(2);
  assert.deepEqual([pool.take(), pool.take()].toSorted(), [1, 3]);
});

test('only what was promised is taken, and only what is there is promised', () => {
  const pool = new CachePool(4);
  assert.throws(() => pool.take(), /not promised/);
  pool.promise(3);
  assert.equal(pool.unpromised, 1);
  assert.throws(() => pool.promise(2), /2 rows promised of 1/);
  const row = pool.take();
  assert.deepEqual([pool.used, pool.unpromised], [1, 1], 'taking a promised row leaves the others what they had');
  pool.promise(-2);
  assert.deepEqual([pool.used, pool.unpromised], [1, 3]);
  pool.give([row]);
  assert.deepEqual([pool.used, pool.unpromised], [0, 4]);
});

test('a row given back twice is a defect and says so', () => {
  const pool = promisedPool(2);
  const row = pool.take();
  pool.give([row]);
  assert.throws(() => pool.give([row]), /twice/);
});

test('trees that fork and lose hypotheses at random: rows in use are those of the live prefixes, each once', () => {
  const steps = fc.array(fc.record({ at: fc.nat(), children: fc.nat(3), rows: fc.integer({ min: 1, max: 4 }) }), {
    maxLength: 30,
  });
  fc.assert(
    fc.property(steps, (growths) => {
      const pool = promisedPool(1000);
      let live = [node(pool, null, 2)];
      const check = () => {
        const nodes = new Set<PrefixNode>();
        for (const leaf of live) for (let n: PrefixNode | null = leaf; n !== null; n = n.parent) nodes.add(n);
        const rows = [...nodes].flatMap((n) => n.rows);
        assert.equal(new Set(rows).size, rows.length);
        assert.equal(pool.used, rows.length);
      };
      for (const { at, children, rows } of growths) {
        const parent = live[at % live.length];
        if (parent === undefined) break;
        const born = Array.from({ length: children }, () => node(pool, parent, rows));
        parent.release(pool);
        live = [...live.filter((leaf) => leaf !== parent), ...born];
        check();
      }
      for (const leaf of live.splice(0)) leaf.release(pool);
      check();
    }),
    { numRuns: 300 },
  );
});
