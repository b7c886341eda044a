import assert from 'node:assert/strict';
import { test } from 'node:test';
import { barPlot } from '../../loadtest/bar-plot.js';

test('a bar for each value, and a plot of nothing says so', () => {
  const plot = { title: 't', xLabel: 'x', yLabel: 'y' };
  assert.match(barPlot({ ...plot, bars: [], names: [] }), /no data/);
  assert.equal(
    barPlot({ ...plot, bars: [{ label: 'a', values: [1, 2] }], names: ['p', 'q'] }).match(/<rect/g)?.length,
    5,
  );
});
