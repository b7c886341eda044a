/** Tokens by depth: a bar for each step in the colour that the tokens have, so that it is their legend too. */
import { el } from './dom.js';
import { depthLevel } from './scale.js';
import { count, percent } from './text.js';

/** @param histogram as in replies: the index is the number of steps */
export function drawHistogram(list: HTMLElement, histogram: readonly number[]): void {
  const maxSteps = Math.max(1, histogram.length - 1);
  const most = Math.max(1, ...histogram);
  const all = histogram.reduce((sum, tokens) => sum + tokens, 0);
  const bars = histogram.slice(1).map((tokens, i) => {
    const bar = el('span', { class: 'bar', 'data-level': depthLevel(i + 1, maxSteps), 'aria-hidden': 'true' });
    bar.style.setProperty('--height', String(tokens / most));
    return el(
      'li',
      { title: `${percent(tokens / all)} of ${count(all)}` },
      el('span', { class: 'bar-count', 'aria-hidden': 'true' }, tokens === 0 ? '' : count(tokens)),
      bar,
      el('span', { class: 'bar-depth', 'aria-hidden': 'true' }, String(i + 1)),
      el('span', { class: 'unseen' }, ` ${count(tokens)} tokens took ${i + 1} steps`),
    );
  });
  list.replaceChildren(...bars);
}
