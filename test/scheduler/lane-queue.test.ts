import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { LaneRequest } from '../../src/scheduler/lane.js';
import { LaneQueue, type TimeLimits } from '../../src/scheduler/lane-queue.js';

const BUDGET = { maxSteps: 8, minSteps: 1, threshold: 0.99 };

function lanes(jobId: number, count: number, length = 10): LaneRequest[] {
  return Array.from({ length: count }, (_, index) => {
    return { jobId, index, ids: new Int32Array(length), scoreFrom: 0, topCount: 0, budget: BUDGET };
  });
}

const limits = (changes: Partial<TimeLimits> = {}): TimeLimits => ({ deadlineAtMs: null, startByMs: 1000, ...changes });

/** The jobs in the order in which their lanes are taken. */
function order(queue: LaneQueue, count = Number.POSITIVE_INFINITY): string {
  let said = '';
  for (let i = 0; i < count && queue.head() !== null; i++) {
    const head = queue.head();
    const lane = queue.take();
    assert.equal(head, lane, 'what is shown is what is taken');
    said += `${lane.jobId}${lane.index > 0 ? `.${lane.index}` : ''} `;
  }
  return said.trim();
}

test('without deadlines jobs take turns in the order in which they must start', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 3), limits({ startByMs: 1000 }));
  queue.submit(2, lanes(2, 1), limits({ startByMs: 1001 }));
  queue.submit(3, lanes(3, 2), limits({ startByMs: 1002 }));
  assert.equal(queue.lanes, 6);
  assert.equal(order(queue), '1 2 3 1.1 3.1 1.2');
  assert.equal(queue.lanes, 0);
});

test('a job that comes later is behind those that wait, and before what is left of a long one', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 4), limits({ startByMs: 1000 }));
  assert.equal(order(queue, 1), '1');
  queue.submit(2, lanes(2, 1), limits({ startByMs: 1010 }));
  assert.equal(order(queue, 2), '1.1 2', 'the long job was first in line when nobody else was');
  queue.submit(3, lanes(3, 1), limits({ startByMs: 1020 }));
  queue.submit(4, lanes(4, 1), limits({ startByMs: 1020 }));
  assert.equal(order(queue), '1.2 3 4 1.3', 'equal times: as they came');
});

test('the earliest deadline is first, with all its lanes; what must start comes where it must start', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 1), limits({ startByMs: 500 }));
  queue.submit(2, lanes(2, 2), limits({ deadlineAtMs: 400, startByMs: 2000 }));
  queue.submit(3, lanes(3, 1), limits({ deadlineAtMs: 300, startByMs: 2000 }));
  queue.submit(4, lanes(4, 1), limits({ deadlineAtMs: 900, startByMs: 2000 }));
  queue.submit(5, lanes(5, 1), limits({ deadlineAtMs: 900, startByMs: 450 }));
  assert.equal(order(queue), '3 2 2.1 5 1 4');
});

test('what is left of a job without a deadline goes behind others without one, not behind deadlines that are later', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 2), limits({ startByMs: 500 }));
  queue.submit(2, lanes(2, 1), limits({ startByMs: 600 }));
  queue.submit(3, lanes(3, 1), limits({ deadlineAtMs: 900, startByMs: 2000 }));
  assert.equal(order(queue), '1 2 1.1 3');
});

test('tenants share by rows, whatever each of them has waiting', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 6, 10), limits({ tenant: 'a' }));
  queue.submit(2, lanes(2, 2, 30), limits({ tenant: 'b' }));
  // a: 10 20 30, b: 30, then a again until it has used as much.
  assert.equal(order(queue), '1 2 1.1 1.2 1.3 2.1 1.4 1.5');
});

test('a deadline of one tenant does not take the turns of another', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 3), limits({ tenant: 'a', deadlineAtMs: 10 }));
  queue.submit(2, lanes(2, 3), limits({ tenant: 'b' }));
  assert.equal(order(queue), '1 2 1.1 2.1 1.2 2.2');
});

test('a tenant that was away has no credit, and no debt', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 5), limits({ tenant: 'a' }));
  order(queue, 4);
  queue.submit(2, lanes(2, 3), limits({ tenant: 'b' }));
  assert.equal(order(queue), '2 1.4 2.1 2.2', 'not three of b first for the four that a had');
  queue.submit(3, lanes(3, 2), limits({ tenant: 'a' }));
  queue.submit(4, lanes(4, 2), limits({ tenant: 'c' }));
  assert.equal(order(queue), '3 4 3.1 4.1');
});

test('a job leaves the queue wherever it is, once', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 3), limits());
  queue.submit(2, lanes(2, 2), limits({ tenant: 'b' }));
  queue.submit(3, lanes(3, 1), limits());
  order(queue, 1);
  queue.abort(1);
  assert.equal(queue.lanes, 3);
  queue.abort(1);
  queue.abort(99);
  queue.abort(2);
  assert.equal(queue.lanes, 1);
  assert.equal(order(queue), '3');
  assert.equal(queue.head(), null);
  assert.throws(() => queue.take(), /empty queue/);
  assert.throws(() => queue.submit(5, [], limits()), /without lanes/);
});

test('overdue: by deadline always, by start until its first lane was taken; longest overdue first', () => {
  const queue = new LaneQueue(({ ids }: LaneRequest) => ids.length);
  queue.submit(1, lanes(1, 2), limits({ startByMs: 100 }));
  queue.submit(2, lanes(2, 1), limits({ startByMs: 90 }));
  queue.submit(3, lanes(3, 1), limits({ deadlineAtMs: 80 }));
  queue.submit(4, lanes(4, 1), limits({ deadlineAtMs: 80, startByMs: 70 }));
  assert.deepEqual(queue.overdue(69), []);
  assert.deepEqual(queue.overdue(70), [{ jobId: 4, limit: 'start' }]);
  assert.deepEqual(queue.overdue(100), [
    { jobId: 3, limit: 'deadline' },
    { jobId: 4, limit: 'deadline' },
    { jobId: 2, limit: 'start' },
    { jobId: 1, limit: 'start' },
  ]);
  assert.equal(order(queue, 4), '4 3 2 1');
  assert.deepEqual(
    queue.overdue(5000).map(({ jobId, limit }) => `${jobId} ${limit}`),
    ['3 deadline', '4 deadline'],
    'what has started need not start any more',
  );
  queue.settle(3);
  queue.abort(4);
  assert.deepEqual(queue.overdue(1e9), []);
});

test('of two deadlines that have passed the older is first, of equal ones the lower job, in whatever order they came', () => {
  const queue = new LaneQueue();
  queue.submit(9, lanes(9, 1), limits({ deadlineAtMs: 80 }));
  queue.submit(5, lanes(5, 1), limits({ deadlineAtMs: 90 }));
  queue.submit(3, lanes(3, 1), limits({ deadlineAtMs: 80 }));
  queue.submit(4, lanes(4, 1), limits({ deadlineAtMs: 70 }));
  assert.deepEqual(
    queue.overdue(100).map(({ jobId }) => jobId),
    [4, 3, 9, 5],
  );
});

/** One action on a queue: a job comes, a lane is taken, or a job leaves; then time passes. */
const actionArbitrary = fc.record({
  kind: fc.constantFrom('submit', 'submit', 'take', 'take', 'take', 'abort'),
  count: fc.integer({ min: 1, max: 4 }),
  tenant: fc.constantFrom('a', 'b', 'c'),
  deadlineInMs: fc.option(fc.integer({ min: 0, max: 60 })),
  startInMs: fc.integer({ min: 0, max: 60 }),
  which: fc.nat(),
  passesMs: fc.nat(10),
});

test('whatever comes, is taken and leaves: lanes of a job in order and once, and who is overdue is known', () => {
  fc.assert(
    fc.property(fc.array(actionArbitrary, { maxLength: 80 }), (actions) => {
      const queue = new LaneQueue();
      /** Jobs that are in: how many of their lanes were taken, and when they must go. */
      const jobs = new Map<number, { taken: number; count: number; deadlineAtMs: number | null; startByMs: number }>();
      let nowMs = 0;
      for (const [id, { kind, count, tenant, deadlineInMs, startInMs, which, passesMs }] of actions.entries()) {
        const [target] = [...jobs.keys()].slice(which % Math.max(1, jobs.size));
        if (kind === 'submit') {
          const deadlineAtMs = deadlineInMs === null ? null : nowMs + deadlineInMs;
          queue.submit(id, lanes(id, count), { deadlineAtMs, startByMs: nowMs + startInMs, tenant });
          jobs.set(id, { taken: 0, count, deadlineAtMs, startByMs: nowMs + startInMs });
        } else if (kind === 'abort' && target !== undefined) {
          queue.abort(target);
          jobs.delete(target);
        } else if (kind === 'take' && queue.head() !== null) {
          const lane = queue.take();
          const job = jobs.get(lane.jobId);
          assert.ok(job !== undefined, 'of a job that has not left');
          assert.equal(lane.index, job.taken, 'the lanes of a job in order');
          job.taken += 1;
        }
        const waiting = [...jobs.values()].reduce((sum, job) => sum + job.count - job.taken, 0);
        assert.equal(queue.lanes, waiting);
        assert.equal(queue.head() === null, waiting === 0);
        nowMs += passesMs;
        const late = [...jobs].flatMap(([jobId, { taken, deadlineAtMs, startByMs }]) => {
          if (deadlineAtMs !== null && deadlineAtMs <= nowMs) return [`${jobId} deadline`];
          return taken === 0 && startByMs <= nowMs ? [`${jobId} start`] : [];
        });
        const said = queue.overdue(nowMs).map(({ jobId, limit }) => `${jobId} ${limit}`);
        assert.deepEqual(said.sort(), late.sort());
      }
    }),
    { numRuns: 300 },
  );
});

test('while both have lanes waiting, no tenant is ahead of another by more than its longest lane', () => {
  const side = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(fc.array(side, { minLength: 2, maxLength: 4 }), (tenants) => {
      const queue = new LaneQueue();
      tenants.forEach((lengths, tenant) => {
        lengths.forEach((length, i) => {
          const jobId = 100 * tenant + i;
          queue.submit(jobId, lanes(jobId, 1, length), limits({ tenant: String(tenant) }));
        });
      });
      const longest = Math.max(...tenants.flat());
      const rows = tenants.map(() => 0);
      const left = tenants.map(({ length }) => length);
      while (left.every((count) => count > 0)) {
        const { jobId, ids } = queue.take();
        const tenant = Math.floor(jobId / 100);
        rows[tenant] = (rows[tenant] as number) + ids.length;
        left[tenant] = (left[tenant] as number) - 1;
        assert.ok(Math.max(...rows) - Math.min(...rows) <= longest, `rows by tenant: ${rows}`);
      }
    }),
    { numRuns: 200 },
  );
});
