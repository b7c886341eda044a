import assert from 'node:assert/strict';
import { test } from 'node:test';
import { colourDepth, renderHeatmap, renderLegend } from '../../src/cli/heatmap.js';

const HELLO = { text: 'In the end', offsets: [0, 2, 6, 10], depths: [1, 3, 8], maxSteps: 8 };

test('without colours each token is followed by its depth', () => {
  assert.equal(renderHeatmap(HELLO, 'none'), 'In₁ the₃ end₈\n');
  assert.match(renderLegend(8, 'none'), /subscript, 1 to 8 steps/);
});

test('with colours the ends of the scale are those of viridis, with letters that contrast', () => {
  const heatmap = renderHeatmap(HELLO, 'truecolor');
  assert.ok(heatmap.startsWith('\x1b[38;5;231m\x1b[48;2;68;1;84mIn\x1b[0m'), 'white on violet');
  assert.ok(heatmap.endsWith('\x1b[38;5;16m\x1b[48;2;253;231;37m end\x1b[0m\n'), 'black on yellow');
});

test('256 colours are of the 6 x 6 x 6 cube', () => {
  for (const [, index] of renderLegend(8, '256').matchAll(/\[48;5;(\d+)m/g))
    assert.ok(Number(index) >= 16 && Number(index) <= 231);
  assert.equal(renderLegend(8, '256').match(/\[48;5;/g)?.length, 8);
});

test('a character that takes several tokens is shown once, at its deepest', () => {
  const map = { text: 'a🙂b', offsets: [0, 1, 1, 1, 3, 4], depths: [1, 2, 5, 3, 4], maxSteps: 8 };
  assert.equal(renderHeatmap(map, 'none'), 'a₁🙂₅b₄\n');
});

test('colours end before a line does, and a depth stands before the break', () => {
  const map = { text: 'a\n\nb', offsets: [0, 3, 4], depths: [2, 2], maxSteps: 2 };
  for (const line of renderHeatmap(map, 'truecolor').trimEnd().split('\n'))
    assert.ok(line === '' || line.endsWith('\x1b[0m'));
  assert.equal(renderHeatmap(map, 'none'), 'a₂\n\nb₂\n');
});

test('a text cannot drive the terminal', () => {
  const map = { text: '\x1b[2J\x07\r\x9b1m\u202e', offsets: [0, 10], depths: [1], maxSteps: 8 };
  assert.equal(renderHeatmap(map, 'none'), '␛[2J␇␍\ufffd1m\ufffd₁\n');
});

test('no tokens, and a model of one step', () => {
  assert.equal(renderHeatmap({ text: '', offsets: [0], depths: [], maxSteps: 8 }, 'truecolor'), '\n');
  assert.match(renderHeatmap({ text: 'a', offsets: [0, 1], depths: [1], maxSteps: 1 }, 'truecolor'), /48;2;68;1;84m/);
});

test('NO_COLOR wins over FORCE_COLOR, which wins over what the stream is', () => {
  assert.equal(colourDepth(true, { COLORTERM: 'truecolor' }), 'truecolor');
  assert.equal(colourDepth(true, { TERM: 'xterm-256color' }), '256');
  assert.equal(colourDepth(true, { TERM: 'dumb' }), 'none');
  assert.equal(colourDepth(false, { COLORTERM: 'truecolor' }), 'none');
  assert.equal(colourDepth(false, { FORCE_COLOR: '1', COLORTERM: '24bit' }), 'truecolor');
  assert.equal(colourDepth(true, { NO_COLOR: '1', FORCE_COLOR: '1' }), 'none');
  assert.equal(colourDepth(true, { NO_COLOR: '' }), '256');
});
