/** Against PyTorch (golden.json, float32 on the same weights) and between backends and counts of threads, on the shipped package. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { goldenTexts } from '../shipped-package.js';
import { type ChildReport, type ChildSettings, scoreInChild } from './score-child.js';

/** A depth may differ only where PyTorch's own halting sum is this close to the threshold. */
const MARGIN_MIN = 1e-5;
/** golden.json rounds to four decimals. */
const ROUNDING = 5.1e-5;

const PARITY = {
  float32: { logprob: 1e-4, remainder: 1e-4 },
} as const;

const reports = new Map<string, Promise<ChildReport>>();
/** One child a setting, whichever tests look at it; one at a time, since each may take all cores. */
let last: Promise<unknown> = Promise.resolve();
function scored(settings: ChildSettings): Promise<ChildReport> {
  const key = JSON.stringify(settings);
  const known = reports.get(key);
  if (known !== undefined) return known;
  const report = last.then(() => scoreInChild(settings));
  last = report.catch(() => {});
  reports.set(key, report);
  return report;
}

function assertAgree(a: ChildReport, b: ChildReport): void {
  for (const [i, { depths, logprobs }] of a.results.entries()) {
    assert.deepEqual(depths, b.results[i]?.depths, `depths of text ${i}`);
    for (const [at, logprob] of logprobs.entries()) {
      const off = Math.abs(logprob - (b.results[i]?.logprobs[at] as number));
      assert.ok(off <= 1e-5, `log-probability ${at} of text ${i} differs by ${off}`);
    }
  }
}

for (const backend of ['ort-capi', 'ort-node'] as const) {
  test(`${backend}, float32: depths and log-probabilities of PyTorch`, async () => {
    const { results } = await scored({ backend, precision: 'float32', threads: 2 });
    const tolerance = PARITY.float32;
    goldenTexts().forEach(({ text, depth, logprobs, remainder, margin }, i) => {
      const result = results[i] as ChildReport['results'][number];
      assert.equal(result.depths.length, depth.length);
      depth.forEach((expected, at) => {
        const where = `token ${at} of ${JSON.stringify(text.slice(0, 40))}`;
        if ((margin[at] as number) > MARGIN_MIN) assert.equal(result.depths[at], expected, `depth of ${where}`);
        const off = Math.abs((result.logprobs[at] as number) - (logprobs[at] as number));
        assert.ok(off <= tolerance.logprob + ROUNDING, `log-probability of ${where} differs by ${off}`);
        const offRemainder = Math.abs((result.remainders[at] as number) - (remainder[at] as number));
        assert.ok(offRemainder <= tolerance.remainder + ROUNDING, `remainder of ${where} differs by ${offRemainder}`);
      });
    });
  });
}

for (const precision of ['int8', 'float32'] as const) {
  test(`${precision}: both backends agree`, async () => {
    const capi = await scored({ backend: 'ort-capi', precision, threads: 2 });
    const node = await scored({ backend: 'ort-node', precision, threads: 2 });
    assertAgree(capi, node);
  });

  test(`${precision}: one thread and two compute the same`, async () => {
    const one = await scored({ backend: 'ort-capi', precision, threads: 1 });
    const two = await scored({ backend: 'ort-capi', precision, threads: 2 });
    if (precision === 'int8') assert.deepEqual(one.results, two.results);
    assertAgree(one, two);
  });
}

test('no native handle outlives its backend', async () => {
  for (const report of reports.values()) assert.equal((await report).liveHandles, 0);
});
