/** Which token is drawn: against the definition, and against the shares that the probabilities promise. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { chooseRank, uniform } from '../../src/scheduler/sampling.js';

/** Log-probabilities, best first, of any distribution over 2 to 40 tokens. */
const distribution = fc
  .array(fc.double({ min: 0, max: 12, noNaN: true }), { minLength: 2, maxLength: 40 })
  .map((scores) => {
    const sorted = [...scores].sort((a, b) => b - a);
    const total = Math.log(sorted.reduce((sum, score) => sum + Math.exp(score), 0));
    return Float32Array.from(sorted, (score) => score - total);
  });

const HALF_TENTH = Float32Array.from([0.5, 0.3, 0.15, 0.05], Math.log);

/** How often each rank is chosen over this many seeds. */
function shares(temperature: number, topP: number, count = 20_000): number[] {
  const counts = new Array<number>(HALF_TENTH.length).fill(0);
  for (let seed = 0; seed < count; seed++) {
    const rank = chooseRank(HALF_TENTH, { temperature, topP, seed }, seed % 7);
    counts[rank] = (counts[rank] as number) + 1;
  }
  return counts.map((of) => of / count);
}

function assertShares(found: readonly number[], expected: readonly number[]): void {
  found.forEach((share, rank) => {
    // Four standard deviations of 20,000 draws.
    assert.ok(Math.abs(share - (expected[rank] as number)) < 0.015, `rank ${rank}: ${found} for ${expected}`);
  });
}

test('temperature 0 takes the best and looks at nothing else', () => {
  assert.equal(chooseRank(Float32Array.of(-3), { temperature: 0, topP: 0.1, seed: 5 }, 3), 0);
});

test('at temperature 1 tokens come as often as they are probable', () => {
  assertShares(shares(1, 1), [0.5, 0.3, 0.15, 0.05]);
});

test('temperature raises probabilities to 1 / temperature before they are weighed', () => {
  const squared = [0.25, 0.09, 0.0225, 0.0025];
  const total = squared.reduce((sum, weight) => sum + weight, 0);
  assertShares(
    shares(0.5, 1),
    squared.map((weight) => weight / total),
  );
});

test('top_p keeps the fewest best tokens that reach it, after temperature', () => {
  assertShares(shares(1, 0.5), [1, 0, 0, 0]);
  assertShares(shares(1, 0.51), [0.5 / 0.8, 0.3 / 0.8, 0, 0]);
  // Squared and normalised the best alone has 0.685.
  assertShares(shares(0.5, 0.68), [1, 0, 0, 0]);
});

test('tokens that reach top_p exactly are enough', () => {
  const equal = new Float32Array(4).fill(Math.log(0.25));
  const drawn = new Set(
    Array.from({ length: 200 }, (_, seed) => chooseRank(equal, { temperature: 1, topP: 0.5, seed }, 0)),
  );
  assert.deepEqual([...drawn].sort(), [0, 1]);
});

test('one token at least is kept, whatever top_p says', () => {
  for (let seed = 0; seed < 20; seed++) assert.equal(chooseRank(HALF_TENTH, { temperature: 1, topP: 0, seed }, 0), 0);
});

test('a small temperature draws among tokens that are all improbable: what counts is how they compare', () => {
  const improbable = Float32Array.of(-5, -5.001, -9);
  const drawn = new Set(
    Array.from({ length: 200 }, (_, seed) => chooseRank(improbable, { temperature: 0.005, topP: 1, seed }, 0)),
  );
  assert.deepEqual([...drawn].sort(), [0, 1], 'exp(-1000) is 0');
});

test('the rank is one that top_p keeps, whatever the distribution, and the same when asked again', () => {
  fc.assert(
    fc.property(
      distribution,
      fc.double({ min: 0.01, max: 3, noNaN: true }),
      fc.double({ min: 0.001, max: 1, noNaN: true }),
      fc.maxSafeInteger(),
      fc.nat(600),
      (logprobs, temperature, topP, seed, turn) => {
        const sampling = { temperature, topP, seed };
        const rank = chooseRank(logprobs, sampling, turn);
        const weights = Array.from(logprobs, (logprob) => Math.exp((logprob - (logprobs[0] as number)) / temperature));
        const sum = (count: number) => weights.slice(0, count).reduce((total, weight) => total + weight, 0);
        assert.ok(
          rank < logprobs.length && sum(rank) < topP * sum(weights.length) + 1e-9,
          'those before do not reach it',
        );
        assert.equal(chooseRank(logprobs.slice(), sampling, turn), rank);
      },
    ),
    { numRuns: 500 },
  );
});

test('uniform numbers: of neighbouring seeds and turns alike, spread evenly and unlike each other', () => {
  const bins = new Array<number>(64).fill(0);
  let product = 0;
  const count = 64_000;
  for (let i = 0; i < count; i++) {
    const value = uniform(i >> 6, i & 63);
    assert.ok(value >= 0 && value < 1);
    bins[Math.floor(value * 64)] = (bins[Math.floor(value * 64)] as number) + 1;
    product += (value - 0.5) * (uniform((i >> 6) + 1, i & 63) - 0.5);
  }
  const expected = count / 64;
  const chi = bins.reduce((sum, of) => sum + (of - expected) ** 2 / expected, 0);
  // 63 degrees of freedom: 63 on average, standard deviation 11.
  assert.ok(chi > 30 && chi < 110, `chi squared ${chi}`);
  assert.ok(
    Math.abs(product / count) < 4 / 12 / Math.sqrt(count),
    'neighbouring seeds are not correlated: four standard deviations',
  );
});

test('every bit of a seed counts', () => {
  const seeds = [0, 1, -1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 52, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER];
  assert.equal(new Set(seeds.map((seed) => uniform(seed, 0))).size, seeds.length);
});

test('a seed says the same in every version: these numbers may never change', () => {
  const drawn: readonly (readonly [seed: number, turn: number, value: number])[] = [
    [0, 0, 0.2874115489213409],
    [0, 1, 0.3068374461471228],
    [1, 0, 0.6346319356869645],
    [-1, 0, 0.5982187031681939],
    [42, 7, 0.3566889156022709],
    [2 ** 32 + 1, 599, 0.15700705700358586],
    [Number.MAX_SAFE_INTEGER, 3, 0.8939597245241727],
  ];
  for (const [seed, turn, value] of drawn) assert.equal(uniform(seed, turn), value, `seed ${seed}, turn ${turn}`);
});
