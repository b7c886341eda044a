/** What a view says about itself: that it works, what it found, or why it could not. */
import { need } from './dom.js';

export class Notice {
  readonly #said: HTMLElement;
  readonly #section: HTMLElement;

  /** @param view whose section is `view-VIEW` and whose line is `VIEW-said` */
  constructor(view: string) {
    this.#said = need(`${view}-said`, HTMLElement);
    this.#section = need(`view-${view}`, HTMLElement);
  }

  busy(text: string): void {
    this.#section.setAttribute('aria-busy', 'true');
    this.#set(text, false);
  }

  done(text: string): void {
    this.#section.setAttribute('aria-busy', 'false');
    this.#set(text, false);
  }

  failed(text: string): void {
    this.#section.setAttribute('aria-busy', 'false');
    this.#set(text, true);
  }

  #set(text: string, failed: boolean): void {
    this.#said.textContent = text;
    this.#said.classList.toggle('failed', failed);
  }
}
