import assert from 'node:assert/strict';
import { test } from 'node:test';
import { linePlot } from '../../src/cli/plot.js';
import { short } from '../../src/cli/plot-frame.js';

test('points keep their order on the axes, and larger is higher', () => {
  const svg = linePlot({
    title: 'a < b',
    xLabel: 'x',
    yLabel: 'y',
    series: [
      {
        name: 'one',
        points: [
          [0, 1],
          [5, 10],
          [10, 100],
        ],
      },
    ],
    yLog: true,
  });
  const circles = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(
    ([, x, y]) => [Number(x), Number(y)] as const,
  );
  assert.equal(circles.length, 3);
  const [[x0, y0], [x1, y1], [x2, y2]] = circles as [
    readonly [number, number],
    readonly [number, number],
    readonly [number, number],
  ];
  assert.ok(x0 < x1 && x1 < x2 && y0 > y1 && y1 > y2);
  assert.ok(Math.abs(y0 - y1 - (y1 - y2)) < 0.2, 'equal factors are equal distances on a logarithmic axis');
  assert.match(svg, /a &lt; b/);
  assert.doesNotMatch(svg, /NaN|undefined/);
});

test('nothing to draw says so; one point and equal values draw', () => {
  const plot = { title: 't', xLabel: 'x', yLabel: 'y' };
  assert.match(linePlot({ ...plot, series: [] }), /no data/);
  assert.doesNotMatch(linePlot({ ...plot, series: [{ name: 's', points: [[3, 7]] }] }), /NaN|Infinity/);
});

test('numbers as people read them', () => {
  assert.deepEqual([0, 0.12345, 1234.5, 1_000_000, 2.5e7].map(short), ['0', '0.123', '1,230', '1 M', '25 M']);
});
