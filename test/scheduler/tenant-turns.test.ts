import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { TenantTurns } from '../../src/scheduler/tenant-turns.js';

test('nobody waits: nobody is next; ties go to the name', () => {
  const turns = new TenantTurns();
  assert.equal(turns.next([]), null);
  assert.equal(turns.next(['b', 'a', 'c']), 'a');
  turns.charge('a', 5);
  assert.equal(turns.next(['a', 'b', 'c']), 'b');
});

test('tenants that always wait get the same rows but for one turn of each', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 4 }), {
        minLength: 2,
        maxLength: 4,
      }),
      (lengths) => {
        const turns = new TenantTurns();
        const names = lengths.map((_, i) => `t${i}`);
        const got = new Map(names.map((name) => [name, 0]));
        for (let turn = 0; turn < 200; turn++) {
          const tenant = turns.next(names) as string;
          const sizes = lengths[names.indexOf(tenant)] as number[];
          const rows = sizes[turn % sizes.length] as number;
          turns.charge(tenant, rows);
          got.set(tenant, (got.get(tenant) ?? 0) + rows);
        }
        const all = [...got.values()];
        assert.ok(Math.max(...all) - Math.min(...all) <= 50, `${all}`);
      },
    ),
  );
});

test('what it remembers is what still matters', () => {
  const turns = new TenantTurns();
  for (let i = 0; i < 1000; i++) turns.charge(`tenant ${i}`, 10);
  assert.ok(turns.remembered <= 1000);
  for (let i = 0; i < 20; i++) turns.charge('busy', 10);
  assert.equal(turns.remembered, 1, 'those whose turn has passed are forgotten');
});
