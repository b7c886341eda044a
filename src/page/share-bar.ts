/** Below each view: the command that does the same, and the link that brings one back here. */

import { urlOf } from './api.js';
import { curl } from './curl.js';
import { need } from './dom.js';
import { currentKey } from './key.js';

export class ShareBar {
  readonly #code: HTMLElement;

  /** @param view whose elements are `VIEW-curl`, `VIEW-copy-curl` and `VIEW-copy-link` */
  constructor(view: string) {
    this.#code = need(`${view}-curl`, HTMLElement);
    copies(need(`${view}-copy-curl`, HTMLButtonElement), () => this.#code.textContent ?? '');
    copies(need(`${view}-copy-link`, HTMLButtonElement), () => location.href);
  }

  show(path: string, body: object | null): void {
    this.#code.textContent = curl(urlOf(path), body, currentKey() !== null);
  }
}

function copies(button: HTMLButtonElement, text: () => string): void {
  const name = button.textContent ?? '';
  button.addEventListener('click', async () => {
    // Over plain HTTP from another machine browsers offer no clipboard.
    const copied = await (navigator.clipboard?.writeText(text()) ?? Promise.reject()).then(
      () => true,
      () => false,
    );
    need('said', HTMLElement).textContent = copied
      ? 'Copied'
      : 'The browser does not let this page copy: select and copy it';
    button.textContent = copied ? 'Copied' : 'Not allowed';
    setTimeout(() => {
      button.textContent = name;
    }, 1500);
  });
}
