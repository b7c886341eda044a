import assert from 'node:assert/strict';
import { timingSafeEqual } from 'node:crypto';
import { test } from 'node:test';
import { findKey, hashOf, parseKeys } from '../../src/http/api-keys.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { TokenBucket } from '../../src/http/token-bucket.js';

const ALICE = 'alice-has-a-long-key';
const BOB = 'bob-has-another-long-key';
const keys = parseKeys(
  JSON.stringify([
    { name: 'alice', key: ALICE, admin: true },
    { name: 'bob', sha256: hashOf(BOB).toString('hex'), expires: '2027-01-01', requests_per_minute: 2, concurrent: 1 },
  ]),
  'keys.json',
);

test('keys are kept as hashes, whichever way they are written', () => {
  assert.deepEqual(
    keys.map(({ name, hash }) => [name, hash.equals(hashOf(name === 'alice' ? ALICE : BOB))]),
    [
      ['alice', true],
      ['bob', true],
    ],
  );
  assert.ok(!JSON.stringify(keys).includes(ALICE));
  assert.equal(keys[1]?.expiresAtMs, Date.parse('2027-01-01T00:00:00Z'));
});

test('right, wrong and missing keys cost the same comparisons: every key, each in constant time', () => {
  for (const presented of [ALICE, BOB, 'wrong', `${ALICE}x`, '', 'x'.repeat(10_000)]) {
    let compared = 0;
    const found = findKey(keys, presented, (a, b) => {
      compared += 1;
      assert.equal(a.length, b.length);
      return timingSafeEqual(a, b);
    });
    assert.equal(compared, keys.length, presented.slice(0, 30));
    assert.equal(found?.name, presented === ALICE ? 'alice' : presented === BOB ? 'bob' : undefined);
  }
});

test('what is no list of keys is refused by place, without quoting a key', () => {
  const secret = 'a-secret-of-someone';
  const cases: [unknown, RegExp][] = [
    ['{', /^keys\.json: is not JSON/],
    [[], /must NOT have fewer than 1 items|must not have fewer/i],
    [{ name: 'a', key: secret }, /must be array/],
    [[{ name: 'a b', key: secret }], /\/0\/name/],
    [[{ name: 'a', key: 'short' }], /\/0\/key must not have fewer than 16 characters/],
    [[{ name: 'a', key: `${secret}\n` }], /\/0\/key must match pattern/],
    [[{ name: 'a', key: secret, rate: 1 }], /\/0\/rate is not a known field/],
    [[{ name: 'a' }], /a needs key or sha256/],
    [[{ name: 'a', key: secret, sha256: '0'.repeat(64) }], /not both/],
    [[{ name: 'a', key: secret, expires: '2027-13-45' }], /expires of a is no date/],
    [[{ name: 'a', key: secret, requests_per_minute: 0 }], /requests_per_minute must be >= 1/],
    [
      [
        { name: 'a', key: secret },
        { name: 'a', key: `${secret}2` },
      ],
      /the name a is given twice/,
    ],
  ];
  for (const [entries, says] of cases) {
    assert.throws(
      () => parseKeys(typeof entries === 'string' ? entries : JSON.stringify(entries), 'keys.json'),
      (error: Error) => {
        assert.match(error.message, says);
        assert.ok(!error.message.includes(secret) && !error.message.includes('\n'));
        return true;
      },
    );
  }
});

test('a bucket lets a minute’s worth through at once, and then one each time it has filled by one', () => {
  const bucket = new TokenBucket(3, 1000);
  assert.deepEqual([bucket.take(1000), bucket.take(1000), bucket.take(1000)], [0, 0, 0]);
  assert.ok(Math.abs(bucket.take(1000) - 20_000) < 1e-6);
  assert.ok(Math.abs(bucket.take(11_000) - 10_000) < 1e-6);
  assert.equal(bucket.take(21_000), 0);
  assert.ok(bucket.take(21_000) > 0);
  // However long nobody came, it is a minute's worth.
  assert.deepEqual(
    [0, 0, 0, 1].map(() => bucket.take(10_000_000) > 0),
    [false, false, false, true],
  );
  // A clock that went back fills nothing.
  assert.ok(bucket.take(0) > 0);
});

function ring(limits = { keyRequestsPerMinute: 0, keyConcurrentMax: 0 }) {
  const now = { ms: 0, unixMs: Date.parse('2026-12-31T23:59:59Z') };
  const made = new KeyRing(keys, limits, { monotonicMs: () => now.ms, unixMs: () => now.unixMs });
  return { now, keys: made };
}

test('a key is good until the moment it expires', () => {
  const { now, keys: made } = ring();
  assert.equal(made.authenticate(BOB).name, 'bob');
  now.unixMs += 1000;
  assert.throws(() => made.authenticate(BOB), { code: 'KEY_EXPIRED' });
  assert.equal(made.authenticate(ALICE).name, 'alice');
  assert.throws(() => made.authenticate(''), { code: 'UNAUTHENTICATED', message: /wants an API key/ });
  assert.throws(() => made.authenticate('x'), { code: 'UNAUTHENTICATED', message: /not known/ });
});

test('limits of a key: its own, or those of the options; one key does not touch another', () => {
  const { now, keys: made } = ring({ keyRequestsPerMinute: 3, keyConcurrentMax: 2 });
  const [alice, bob] = [made.authenticate(ALICE), made.authenticate(BOB)];
  const first = made.enter(bob);
  assert.throws(() => made.enter(bob), { code: 'RATE_LIMITED', message: /1 requests of 'bob' are in work/ });
  first();
  made.enter(bob)();
  assert.throws(() => made.enter(bob), { code: 'RATE_LIMITED', retryAfterSeconds: 30, message: /2 requests a minute/ });
  const held = [made.enter(alice), made.enter(alice)];
  assert.throws(() => made.enter(alice), { message: /2 requests of 'alice'/ });
  for (const release of held) release();
  made.enter(alice)();
  assert.throws(() => made.enter(alice), { retryAfterSeconds: 20, message: /3 requests a minute/ });
  now.ms += 20_000;
  made.enter(alice)();
});

test('a reload changes who may come, and resets neither a rate nor what is in work', () => {
  const { keys: made } = ring();
  const bob = made.authenticate(BOB);
  made.enter(bob)();
  made.enter(bob)();
  made.replace(keys.filter(({ name }) => name === 'bob'));
  assert.throws(() => made.authenticate(ALICE), { code: 'UNAUTHENTICATED' });
  assert.throws(() => made.enter(made.authenticate(BOB)), { code: 'RATE_LIMITED' });
  assert.throws(() => made.replace([]), /begun or ended/);
});
