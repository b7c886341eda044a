import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HandleLedger } from '../../src/runtime/handle-ledger.js';

test('what one thread wrote and did not take back its successor finds, the last one first, once', () => {
  const memory = HandleLedger.memory();
  const killed = new HandleLedger(memory);
  killed.add('env', 0x7f00_0000_0001n);
  killed.add('session', 2n);
  killed.add('binding', 3n);
  killed.add('session', 4n);
  killed.remove(2n);
  killed.remove(99n);
  const successor = new HandleLedger(memory);
  assert.deepEqual(successor.takeAll(), [
    { kind: 'session', address: 4n },
    { kind: 'binding', address: 3n },
    { kind: 'env', address: 0x7f00_0000_0001n },
  ]);
  assert.deepEqual(successor.takeAll(), []);
  successor.add('memory', 5n);
  assert.deepEqual(killed.takeAll(), [{ kind: 'memory', address: 5n }]);
});

test('a full ledger keeps what it has', () => {
  const ledger = new HandleLedger(HandleLedger.memory());
  for (let i = 1; i <= 5000; i++) ledger.add('session', BigInt(i));
  ledger.remove(4500n);
  const handles = ledger.takeAll();
  assert.equal(handles.length, 4096);
  assert.equal(handles[0]?.address, 4096n);
});
