/** What the model expected in place of a token: its best candidates with their probabilities. */
import type { Candidate } from './api-types.js';
import { el } from './dom.js';
import { fixed, marked } from './text.js';

/** @param chosen the text of the token that stands there */
export function drawCandidates(list: HTMLElement, candidates: readonly Candidate[], chosen: string): void {
  list.replaceChildren(
    ...candidates.map(({ text, logprob }) => {
      const probability = Math.exp(logprob);
      const bar = el('span', { class: 'candidate-bar', 'aria-hidden': 'true' });
      bar.style.setProperty('--share', String(probability));
      return el(
        'li',
        text === chosen ? { class: 'is-chosen' } : {},
        el('span', { class: 'candidate-text' }, marked(text)),
        bar,
        el('span', { class: 'candidate-share' }, `${fixed(probability * 100, 1)} %`),
      );
    }),
  );
}

/** The rows of a token's facts: name and value. */
export function drawFacts(list: HTMLElement, facts: readonly (readonly [string, string])[]): void {
  list.replaceChildren(...facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}
