import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../src/cli/bench.js';
import {
  arithmeticBound,
  meanVisibleKeys,
  median,
  quantile,
  ratioSpread,
  spread,
} from '../../src/cli/bench-arithmetic.js';
import type { EngineMeasured, Measured } from '../../src/cli/bench-engine.js';
import { renderReport, reportOf } from '../../src/cli/bench-report.js';
import { equalSequences, mixedSequences } from '../../src/cli/bench-sequences.js';
import { recordedIo } from './streams.js';

const NEVER = new AbortController().signal;

test('medians, spreads and quantiles', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.deepEqual(spread([2, 8, 4]), { median: 4, min: 2, max: 8 });
  // Round by round: the slow third round slowed both sides.
  assert.deepEqual(ratioSpread([200, 210, 20], [100, 105, 10]), { median: 2, min: 2, max: 2 });
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.deepEqual([quantile(hundred, 0.5), quantile(hundred, 0.99), quantile(hundred, 1)], [50, 99, 100]);
  assert.throws(() => median([]), RangeError);
});

test('the bound that counts the output layer', () => {
  assert.equal(meanVisibleKeys([3]), 2);
  assert.equal(meanVisibleKeys([1, 3]), 7 / 4);
  const dimensions = { width: 2, feedForward: 3, vocabulary: 10 };
  // F0 = 20; Fr = 16 + 12 + 4 = 32.
  assert.equal(arithmeticBound(dimensions, { max: 8, mean: 3 }, 1), (20 + 8 * 32) / (20 + 3 * 32));
  assert.equal(arithmeticBound({ ...dimensions, vocabulary: 0 }, { max: 8, mean: 2 }, 1), 4);
  // A renewal is 8 multiply-adds here.
  assert.equal(arithmeticBound(dimensions, { max: 8, mean: 3 }, 1, 0.5), (20 + 8 * 32) / (20 + 3 * 32 + 4));
});

test('sequences come from one stream that begins anew, and mixed lengths from the seed', () => {
  const ids = Int32Array.of(1, 2, 3, 4, 5);
  assert.deepEqual(
    equalSequences(ids, 3, 3).map((sequence) => [...sequence]),
    [
      [1, 2, 3],
      [4, 5, 1],
      [2, 3, 4],
    ],
  );
  const draw = (seed: number) =>
    mixedSequences(ids, { tokens: 500, min: 8, max: 32, seed }).map(({ length }) => length);
  assert.deepEqual(draw(1), draw(1));
  assert.notDeepEqual(draw(1), draw(2));
  assert.ok(draw(1).every((length) => length >= 8 && length <= 32));
  assert.ok(draw(1).reduce((sum, length) => sum + length, 0) >= 500);
});

function measured(seconds: number, positionSteps: number): Measured {
  return { seconds, tokens: 100, positionSteps, logprob: -400 };
}

function ofEngine(seconds: number, positionSteps: number): EngineMeasured {
  const engine = { steps: 4, computeSeconds: seconds * 0.9, hostSeconds: seconds * 0.05, activeRows: positionSteps };
  return {
    ...measured(seconds, positionSteps),
    cpuSeconds: 2 * seconds,
    engine: { ...engine, renewedRows: 50, keysUseful: 10, keysComputed: 15 },
  };
}

test('the report takes ratios round by round and shows what the depths allow', () => {
  const round = (slow: number) => ({
    adaptive: ofEngine(0.1 * slow, 400),
    fixed: ofEngine(0.18 * slow, 800),
    mixedAdaptive: ofEngine(0.1 * slow, 400),
    mixedFixed: ofEngine(0.16 * slow, 800),
    baselines: [measured(0.5 * slow, 400)],
  });
  const report = reportOf({
    rounds: [round(1), round(3), round(2)],
    baselineNames: ['some loop'],
    dimensions: { width: 2, feedForward: 3, vocabulary: 0 },
    maxSteps: 8,
    lengths: [50, 50],
    mixedLengths: [10, 90],
  });
  const near = (found: number, wanted: number) =>
    assert.ok(Math.abs(found - wanted) < 1e-9, `${found} is not ${wanted}`);
  near(report.depth.meanDepth, 4);
  near(report.depth.gain.median, 1.8);
  near(report.depth.depthBound, 2);
  near(report.depth.shareOfDepthBound.median, 0.9);
  near(report.depth.gainOfCpu.median, 1.8);
  near(report.depth.arithmeticBound, 2);
  assert.ok(report.depth.boundWithRenewals < 2);
  near(report.mixedDepth.gain.max, 1.6);
  near(report.lines[4]?.adaptiveIs.median ?? 0, 5);
  near(report.time.adaptive.other, 0.05);
  const text = renderReport('title', report);
  assert.match(text, /^engine, adaptive +500 +333 to 1,000 +1\.00 x +4\.000 +-4\.0000$/m);
  assert.match(text, /^some loop +100 +67 to 200 +5\.00 x/m);
  assert.match(text, /^adaptive over fixed +1\.800 \(1\.800 to 1\.800\) +1\.600/m);
});

test('wrong options: exit code 2', async () => {
  for (const argv of [['a', 'b'], ['--rounds', '0'], ['--length', '4096'], ['--verbose']]) {
    const io = recordedIo();
    assert.equal(await run(argv, io, NEVER, {}), 2);
    assert.match(io.stderr.text, /Try: ponder-serve bench --help/);
  }
});

test('end to end: the loop over onnxruntime-node computes what the engine computes', async () => {
  const io = recordedIo({ stdin: 'The capital of France is Paris. '.repeat(8) });
  const argv = '- --sequences 3 --length 12 --rounds 1 --node-loop --threads 1 --json'.split(' ');
  assert.equal(await run(argv, io, NEVER, {}), 0);
  const { report, machine, rounds, options } = JSON.parse(io.stdout.text) as {
    report: ReturnType<typeof reportOf>;
    machine: { node: string; onnxruntime: string };
    rounds: unknown[];
    options: { seed: number };
  };
  assert.deepEqual([machine.node, rounds.length, options.seed], [process.versions.node, 1, 1]);
  assert.match(machine.onnxruntime, /^\d+\.\d+\.\d+$/);
  const [adaptive, fixed, , , int8, float32] = report.lines;
  assert.ok(adaptive !== undefined && fixed !== undefined && int8 !== undefined && float32 !== undefined);
  assert.equal(fixed.meanDepth, 8);
  assert.equal(int8.meanDepth, adaptive.meanDepth);
  assert.ok(Math.abs(int8.meanLogprob - adaptive.meanLogprob) < 1e-6);
  assert.ok(Math.abs(float32.meanLogprob - adaptive.meanLogprob) < 0.05);
  assert.match(io.stderr.text, /^round 1 of 1: /m);
});
