/** Choices one step at a time, and whole searches against trying everything. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { candidatesPerHypothesis, chooseCandidates, normalisedScore, repeatsItself } from '../../src/scheduler/beam.js';
import { hash01 } from '../halting-oracle.js';
import { stutters } from '../translation-oracle.js';

const EOS = 0;

/** Tables of [hypothesis][rank] as [id, log-probability]; every hypothesis has the same number. */
function choose(beam: number, totals: readonly number[], tables: readonly (readonly (readonly [number, number])[])[]) {
  const flat = tables.flat();
  const ids = Int32Array.from(flat, ([id]) => id);
  const logprobs = Float32Array.from(flat, ([, logprob]) => logprob);
  const { live, ended } = chooseCandidates(totals, ids, logprobs, tables[0]?.length ?? 0, beam, EOS);
  const short = ({ from, id, total }: (typeof live)[number]) => [from, id, total];
  return { live: live.map(short), ended: ended.map(short) };
}

test('greedy: the best token, or the end', () => {
  assert.deepEqual(choose(1, [-1], [[[7, -0.5]]]), { live: [[0, 7, -1.5]], ended: [] });
  assert.deepEqual(choose(1, [-1], [[[EOS, -0.5]]]), { live: [], ended: [[0, EOS, -1.5]] });
});

test('a greedy hypothesis needs one candidate, a beam two for each that lives', () => {
  assert.deepEqual([1, 2, 4, 8].map(candidatesPerHypothesis), [1, 4, 8, 16]);
});

test('the best of all hypotheses live on, best first, whoever they continue', () => {
  const tables = [
    [[5, -1] as const, [6, -2] as const, [7, -9] as const, [8, -9] as const],
    [[5, -0.5] as const, [6, -4] as const, [7, -9] as const, [8, -9] as const],
  ];
  assert.deepEqual(choose(2, [-1, -1], tables), {
    live: [
      [1, 5, -1.5],
      [0, 5, -2],
    ],
    ended: [],
  });
  assert.deepEqual(choose(2, [0, -8], tables).live, [
    [0, 5, -1],
    [0, 6, -2],
  ]);
});

test('an end finishes its hypothesis only among the first `beam`; behind them it is dropped', () => {
  const second = [[5, -1] as const, [EOS, -2] as const, [6, -3] as const, [7, -4] as const];
  assert.deepEqual(choose(2, [0], [second]), {
    live: [
      [0, 5, -1],
      [0, 6, -3],
    ],
    ended: [[0, EOS, -2]],
  });
  const third = [[5, -1] as const, [6, -2] as const, [EOS, -3] as const, [7, -4] as const];
  assert.deepEqual(choose(2, [0], [third]), {
    live: [
      [0, 5, -1],
      [0, 6, -2],
    ],
    ended: [],
  });
});

test('with an end from every hypothesis, still `beam` others live: that is what 2 * beam candidates are for', () => {
  const table = [[EOS, -1] as const, [5, -2] as const, [6, -3] as const, [7, -4] as const];
  const { live, ended } = choose(2, [0, -0.25], [table, table]);
  assert.deepEqual([live.length, ended.length], [2, 2]);
});

test('ties go to the earlier hypothesis, then to the better rank', () => {
  const table = [[9, -1] as const, [4, -1] as const, [8, -1] as const, [5, -1] as const];
  assert.deepEqual(choose(2, [-3, -3], [table, table]).live, [
    [0, 9, -4],
    [0, 4, -4],
  ]);
  const behind = [[9, -2] as const, [4, -2] as const, [8, -3] as const, [5, -3] as const];
  assert.deepEqual(choose(2, [-1, -2], [behind, table]).live, [
    [0, 9, -3],
    [0, 4, -3],
  ]);
  assert.deepEqual(choose(2, [-2, -1], [table, behind]).live, [
    [0, 9, -3],
    [0, 4, -3],
  ]);
});

test('the length penalty is a power: 0 compares sums, 1 means', () => {
  assert.equal(normalisedScore(-6, 3, 0), -6);
  assert.equal(normalisedScore(-6, 3, 1), -2);
  assert.equal(normalisedScore(-6, 4, 0.5), -3);
  const [short, long] = [
    [-2, 2],
    [-3, 6],
  ] as const;
  assert.ok(normalisedScore(...short, 0) > normalisedScore(...long, 0));
  assert.ok(normalisedScore(...short, 1) < normalisedScore(...long, 1));
});

// A language of three words and an end, every sentence of which can be tried.
const WORDS = [EOS, 1, 2, 3];
const LENGTH_MAX = 4;

function logprobsAfter(seed: number, ids: readonly number[]): Float32Array {
  const print = ids.reduce((h, id) => Math.floor(hash01(h, id) * 2 ** 31), seed);
  const weights = WORDS.map((id) => Math.exp(3 * hash01(print, id)));
  const sum = weights.reduce((a, b) => a + b);
  return Float32Array.from(weights, (weight) => Math.log(weight / sum));
}

interface Said {
  readonly ids: readonly number[];
  readonly total: number;
  readonly length: number;
}

/** Every sentence there is: ended, or cut at LENGTH_MAX. */
function everySentence(seed: number, ids: readonly number[] = [], total = 0): Said[] {
  if (ids.length === LENGTH_MAX) return [{ ids, total, length: ids.length }];
  const logprobs = logprobsAfter(seed, ids);
  return WORDS.flatMap((id) => {
    const sum = total + (logprobs[id] as number);
    return id === EOS ? [{ ids, total: sum, length: ids.length + 1 }] : everySentence(seed, [...ids, id], sum);
  });
}

/** The search that `chooseCandidates` is made for, in its shortest form; `beam` large enough prunes nothing. */
function search(seed: number, beam: number): Said[] {
  const ended: Said[] = [];
  let live: Said[] = [{ ids: [], total: 0, length: 0 }];
  while (live.length > 0) {
    // With less than 2 * beam words, all of them.
    const k = Math.min(candidatesPerHypothesis(beam), WORDS.length);
    const ranked = live.map(({ ids }) => {
      const logprobs = logprobsAfter(seed, ids);
      return [...WORDS].sort((a, b) => (logprobs[b] as number) - (logprobs[a] as number)).slice(0, k);
    });
    const choice = chooseCandidates(
      live.map(({ total }) => total),
      Int32Array.from(ranked.flat()),
      Float32Array.from(live.flatMap(({ ids }, i) => (ranked[i] ?? []).map((id) => logprobsAfter(seed, ids)[id] ?? 0))),
      k,
      beam,
      EOS,
    );
    const parents = live;
    const said = ({ from, id, total }: (typeof choice.live)[number]): Said => {
      const { ids, length } = parents[from] as Said;
      return { ids: id === EOS ? ids : [...ids, id], total, length: length + 1 };
    };
    ended.push(...choice.ended.map(said));
    const next = choice.live.map(said);
    ended.push(...next.filter(({ length }) => length === LENGTH_MAX));
    live = next.filter(({ length }) => length < LENGTH_MAX);
  }
  return ended;
}

test('a beam that prunes nothing finds every sentence, with its exact sum', () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const key = ({ ids, total, length }: Said) => `${ids.join(' ')} ${length} ${total.toFixed(5)}`;
      assert.deepEqual(
        search(seed, 4 ** LENGTH_MAX)
          .map(key)
          .toSorted(),
        everySentence(seed).map(key).toSorted(),
      );
    }),
    { numRuns: 50 },
  );
});

test('greedy takes the best word after each word', () => {
  fc.assert(
    fc.property(fc.nat(), (seed) => {
      const ids: number[] = [];
      while (ids.length < LENGTH_MAX) {
        const logprobs = logprobsAfter(seed, ids);
        const best = WORDS.reduce((a, b) => ((logprobs[b] as number) > (logprobs[a] as number) ? b : a));
        if (best === EOS) break;
        ids.push(best);
      }
      assert.deepEqual(search(seed, 1)[0]?.ids, ids);
    }),
    { numRuns: 200 },
  );
});

test('what a beam finds exists, with its exact sum, and is found once', () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 1, max: 8 }), (seed, beam) => {
      const all = new Map(everySentence(seed).map((said) => [`${said.ids.join(' ')} ${said.length}`, said.total]));
      const found = search(seed, beam);
      const names = found.map(({ ids, length }) => `${ids.join(' ')} ${length}`);
      assert.equal(new Set(names).size, names.length);
      names.forEach((name, i) => {
        assert.ok(Math.abs((all.get(name) as number) - (found[i]?.total as number)) < 1e-9, name);
      });
    }),
    { numRuns: 200 },
  );
});

const repeated = (words: readonly number[], length: number) =>
  Array.from({ length }, (_, i) => words[i % words.length] as number);

test('32 tokens that repeat up to 8 are a repetition, 31 are not, and neither is a period of 9', () => {
  for (let period = 1; period <= 8; period++) {
    const words = Array.from({ length: period }, (_, i) => i);
    assert.ok(repeatsItself(repeated(words, 32)), `period ${period}`);
    assert.ok(!repeatsItself(repeated(words, 31)), `period ${period}`);
    assert.ok(repeatsItself([9, 9, 8, ...repeated(words, 32)]), 'only the end counts');
    assert.ok(!repeatsItself([...repeated(words, 32), 99]), 'it is over');
    assert.ok(!repeatsItself([...repeated(words, 15), 99, ...repeated(words, 16)]), 'it was broken');
  }
  assert.ok(!repeatsItself(repeated([0, 1, 2, 3, 4, 5, 6, 7, 8], 64)));
  assert.ok(!repeatsItself([]));
});

test('the guard agrees with its definition on any tokens', () => {
  const words = fc.array(fc.nat(2), { minLength: 1, maxLength: 9 });
  const slip = fc.option(fc.record({ at: fc.nat(60), id: fc.nat(2) }));
  fc.assert(
    fc.property(words, fc.integer({ min: 28, max: 60 }), slip, (period, length, change) => {
      const ids = repeated(period, length);
      if (change !== null && change.at < length) ids[change.at] = change.id;
      assert.equal(repeatsItself(ids), stutters(ids));
    }),
    { numRuns: 500 },
  );
});
