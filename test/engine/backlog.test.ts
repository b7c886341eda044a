import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backlog, type Order } from '../../src/engine/backlog.js';
import { CostBook, FadingRatio } from '../../src/engine/cost-book.js';
import type { EngineTelemetry } from '../../src/engine/protocol.js';
import { EMPTY_TELEMETRY } from './score-loop.js';

const BUDGET = { maxSteps: 8, minSteps: 1, threshold: 0.99 };

/** The engine took `ms` for `rows` of the model. */
function worked(ms: number, rows: number, model = 'm'): EngineTelemetry {
  const counts = {
    keysUseful: 0,
    keysComputed: 0,
    rowsPerStep: [],
    paddedRows: 0,
    haltedAtStep: [],
    remainderTenths: [],
    remainderSum: 0,
  };
  const stage = {
    model,
    stage: 'score',
    steps: 1,
    computeSeconds: ms / 1000,
    hostSeconds: 0,
    activeRows: rows,
    renewedRows: 0,
  } as const;
  return { ...EMPTY_TELEMETRY, stages: [{ ...stage, ...counts }] };
}

const order = (tokens: number, changes: Partial<Order> = {}): Order => ({
  kind: 'score',
  model: 'm',
  tokens,
  budget: BUDGET,
  tenant: '',
  deadlineAtMs: null,
  ...changes,
});

/** 4 rows a token, 0.1 ms a row: 0.4 ms a token. */
function learnt(waitMsMax = 30_000): Backlog {
  const backlog = new Backlog(waitMsMax);
  backlog.observe(worked(100, 1000));
  backlog.costs.learn(order(100), 400);
  return backlog;
}

const close = (found: number, wanted: number) =>
  assert.ok(Math.abs(found - wanted) <= 1e-6 * Math.max(1, Math.abs(wanted)), `${found} instead of ${wanted}`);

test('a ratio forgets by what it is told, not by time', () => {
  const ratio = new FadingRatio(100);
  assert.equal(ratio.value, null);
  ratio.add(10, 5);
  assert.equal(ratio.value, 2);
  ratio.add(400, 100);
  // The past counts for half: (5 + 400) / (2.5 + 100).
  close(ratio.value as number, 405 / 102.5);
});

test('rows are learnt by model, kind and steps allowed; what is unknown is guessed within the steps allowed', () => {
  const costs = new CostBook();
  assert.equal(costs.rows(order(10)), 40, 'half the steps that are allowed');
  costs.learn(order(100), 350);
  close(costs.rows(order(10)), 35);
  close(costs.rows(order(10, { budget: { ...BUDGET, maxSteps: 2 } })), 20);
  close(costs.rows(order(10, { budget: { ...BUDGET, minSteps: 8 } })), 80);
  costs.learn(order(100, { budget: { ...BUDGET, minSteps: 8 } }), 800);
  close(costs.rows(order(10)), 35);
  close(costs.rows(order(10, { kind: 'span', budget: null })), 10);
  costs.learn(order(0), 0);
  close(costs.rows(order(10)), 35);
});

test('time a row comes from what the loop reports, renewed rows at a sixth', () => {
  const costs = new CostBook();
  assert.equal(costs.ms('m', 100), 0, 'nothing known: nothing refused');
  const report = worked(30, 90);
  costs.observe({
    ...report,
    stages: report.stages.map((stage) => ({ ...stage, renewedRows: 60, hostSeconds: 0.01 })),
  });
  close(costs.ms('m', 100), 40);
});

test('a new order waits for what is in, and is done when it is done itself', () => {
  const backlog = learnt();
  assert.deepEqual(backlog.predict(order(100)), { waitMs: 0, doneMs: 40 });
  backlog.enter(1, order(500), 0);
  close(backlog.ms, 200);
  close(backlog.predict(order(100)).waitMs, 200);
  close(backlog.predict(order(100)).doneMs, 240);
  backlog.progress(1, 0.25);
  close(backlog.predict(order(100)).waitMs, 50);
  backlog.leave(1, 200, 2000);
  assert.equal(backlog.ms, 0);
});

test('an earlier deadline goes first; other tenants and models take turns', () => {
  const backlog = learnt();
  backlog.enter(1, order(500), 0);
  backlog.enter(2, order(100, { deadlineAtMs: 1000 }), 0);
  close(backlog.predict(order(50, { deadlineAtMs: 500 })).waitMs, 0);
  close(backlog.predict(order(50, { deadlineAtMs: 2000 })).waitMs, 40);
  close(backlog.predict(order(50)).waitMs, 240);
  // Another tenant is due as much as it has itself, not all that the first one has.
  close(backlog.predict(order(50, { tenant: 'b' })).waitMs, 0);
  close(backlog.predict(order(50, { tenant: 'b' })).doneMs, 40);
});

test('what would be late is refused, and told when to come again', () => {
  const backlog = learnt(10_000);
  assert.equal(backlog.refusal(order(1e6, { deadlineAtMs: 10 }), 0), null, 'no better time will come');
  for (let i = 0; i < 10; i++) backlog.enter(i, order(1000), 0);
  assert.equal(backlog.refusal(order(100, { deadlineAtMs: 6000 }), 0), null);
  const late = backlog.refusal(order(100, { deadlineAtMs: 3000, tenant: '' }), 0);
  assert.equal(late, null, 'its deadline is before all of those that have none');
  for (let i = 10; i < 20; i++) backlog.enter(i, order(1000, { deadlineAtMs: 2000 }), 0);
  const refused = backlog.refusal(order(100, { deadlineAtMs: 3000 }), 0);
  // 4,040 ms at the error assumed at first, 1 + 2 x 0.2.
  close(refused?.predictedMs ?? 0, 4040 * 1.4);
  assert.equal(refused?.allowedMs, 3000);
  assert.equal(refused?.retryAfterSeconds, Math.ceil((4040 * 1.4 - 3000) / 1000));
  const waiting = backlog.refusal(order(100), 0);
  assert.equal(waiting?.allowedMs, 10_000, 'without a deadline the longest wait counts');
  assert.equal(backlog.drainSeconds, 8);
});

test('the error is learnt: predictions that are too short refuse sooner, those that are right dare more', () => {
  const run = (factor: number) => {
    const backlog = learnt();
    for (let i = 0; i < 200; i++) {
      backlog.enter(i, order(1000), i * 1000);
      backlog.leave(i, i * 1000 + 400 * factor, 4000);
    }
    backlog.enter(1000, order(1000, { deadlineAtMs: 500 }), 0);
    return backlog.refusal(order(1000, { deadlineAtMs: 600 }), 0)?.predictedMs ?? 0;
  };
  close(Math.round(run(2)), 1600);
  close(Math.round(run(1)), 800);
  const backlog = learnt();
  for (let i = 0; i < 200; i++) {
    backlog.enter(i, order(1000), 0);
    backlog.leave(i, 50, null);
  }
  backlog.enter(1000, order(1000, { deadlineAtMs: 500 }), 0);
  close(backlog.refusal(order(1000, { deadlineAtMs: 600 }), 0)?.predictedMs ?? 0, 800 * 1.4);
});

test('short work that took long for other reasons does not make long work look hopeless', () => {
  const backlog = learnt();
  for (let i = 0; i < 200; i++) {
    backlog.enter(i, order(100), 0);
    backlog.leave(i, 4000, 400);
  }
  backlog.enter(1000, order(1000, { deadlineAtMs: 500 }), 0);
  assert.ok(backlog.expect(order(1000, { deadlineAtMs: 600 })).doneMs < 1200, 'not a hundred times 800 ms');
  for (let i = 0; i < 200; i++) {
    backlog.enter(i, order(1000, { deadlineAtMs: 1 }), i * 1e6);
    backlog.leave(i, (i + 1) * 1e6, 4000);
  }
  assert.ok(backlog.expect(order(1000, { deadlineAtMs: 600 })).doneMs < 800 * 4.5, 'and there is a limit');
});

test('what was given up at its deadline counts double: it would have taken longer', () => {
  const predicted = (late: boolean) => {
    const backlog = learnt();
    for (let i = 0; i < 200; i++) {
      backlog.enter(i, order(1000), i * 1000);
      backlog.leave(i, i * 1000 + 400, late ? null : 4000, late);
    }
    backlog.enter(1000, order(1000, { deadlineAtMs: 500 }), 0);
    return backlog.expect(order(1000, { deadlineAtMs: 600 })).doneMs;
  };
  close(Math.round(predicted(true)), 2 * Math.round(predicted(false)));
});

test('a crowd that leaves in one moment teaches no more than the time since the one before', () => {
  const backlog = learnt();
  for (let i = 0; i < 100; i++) backlog.enter(i, order(1000), 0);
  backlog.leave(0, 1000, 4000);
  const after = backlog.expect(order(1000)).doneMs / backlog.predict(order(1000)).doneMs;
  for (let i = 1; i < 90; i++) backlog.leave(i, 1000, 4000);
  close(backlog.expect(order(1000)).doneMs / backlog.predict(order(1000)).doneMs, after);
});

test('a clock that jumps back spoils nothing', () => {
  const backlog = learnt();
  backlog.enter(1, order(1000), 5000);
  backlog.leave(1, 0, 4000);
  backlog.enter(2, order(1000, { deadlineAtMs: 1 }), 0);
  assert.ok((backlog.refusal(order(1000, { deadlineAtMs: 2 }), 0)?.predictedMs ?? 0) > 0);
});

test('a short text of a model with spans begins at once behind a long one, and is done after sharing with it', () => {
  const backlog = learnt();
  const spans = (tokens: number) => order(tokens, { kind: 'span', budget: null });
  backlog.costs.learn(spans(100), 100);
  backlog.enter(1, spans(1_000_000), 0);
  const { waitMs, doneMs } = backlog.predict(spans(100));
  assert.equal(waitMs, 0);
  close(doneMs, 2 * backlog.costs.ms('m', backlog.costs.rows(spans(100))));
  assert.equal(backlog.refusal(spans(100), 0), null);
});

test('sums are those of what is in, whatever entered, went on and left', () => {
  const backlog = learnt();
  const left = new Map<number, number>();
  const deadlines = [null, 1000, 2000];
  for (let i = 0; i < 300; i++) {
    backlog.enter(i, order(100, { deadlineAtMs: deadlines[i % 3] ?? null }), 0);
    left.set(i, 1);
    if (i % 2 === 0) {
      backlog.progress(i, 0.3);
      left.set(i, 0.3);
    }
    if (i % 5 === 4) {
      backlog.leave(i - 4, 0, null);
      left.delete(i - 4);
    }
  }
  const sum = (of: (i: number) => boolean) => 40 * [...left].reduce((all, [i, part]) => all + (of(i) ? part : 0), 0);
  close(
    backlog.ms,
    sum(() => true),
  );
  close(
    backlog.predict(order(1)).waitMs,
    sum(() => true),
  );
  close(
    backlog.predict(order(1, { deadlineAtMs: 1500 })).waitMs,
    sum((i) => i % 3 === 1),
  );
  for (const i of [...left.keys()]) backlog.leave(i, 0, null);
  assert.equal(backlog.ms, 0);
});
