/**
 * A text as its tokens, each on the colour of its level and over a small figure, so that colour is not all that tells. It is a
 * listbox: one token is in the tab order, the arrow keys move on from it, and what is chosen (or pointed at) is told to the view.
 */
import { el } from './dom.js';
import { visible } from './text.js';

export interface StripToken {
  readonly text: string;
  /** 0 ... 15 */
  readonly level: number;
  /** Printed under the token; empty for nothing. */
  readonly figure: string;
  /** What a screen reader says of it. */
  readonly label: string;
}

/** Past this the page would take longer to draw than to read. */
export const TOKENS_SHOWN_MAX = 4000;

export class TokenStrip {
  readonly #tokens: HTMLElement[] = [];
  /** Bytes run on as text does; their spaces need no sign. */
  readonly #dense: boolean;
  #chosen = -1;

  /** @param onChoose is told the index of the token that is pointed at, focused or clicked */
  constructor(
    readonly list: HTMLElement,
    private readonly onChoose: (index: number) => void,
  ) {
    this.#dense = list.classList.contains('dense');
    list.addEventListener('focusin', ({ target }) => this.#chooseElement(target));
    list.addEventListener('click', ({ target }) => this.#chooseElement(target));
    // A token that comes to lie below a pointer at rest, because the keyboard scrolls the page, would take the choice from the keyboard.
    let [x, y] = [Number.NaN, Number.NaN];
    list.addEventListener('pointerover', ({ pointerType, clientX, clientY, target }) => {
      if (pointerType !== 'mouse' || (clientX === x && clientY === y)) return;
      [x, y] = [clientX, clientY];
      this.#chooseElement(target);
    });
    list.addEventListener('keydown', (event) => this.#move(event));
  }

  get length(): number {
    return this.#tokens.length;
  }

  get chosen(): number {
    return this.#chosen;
  }

  /** Draws these tokens in place of others; the one at the place of the chosen one stays chosen. */
  show(tokens: readonly StripToken[]): void {
    const hadFocus = this.list.contains(document.activeElement);
    const chosen = this.#chosen;
    this.#tokens.length = 0;
    this.#chosen = -1;
    const fragment = document.createDocumentFragment();
    for (const token of tokens.slice(0, TOKENS_SHOWN_MAX)) this.#make(token, fragment);
    this.list.replaceChildren(fragment);
    if (chosen >= 0 && chosen < this.#tokens.length) this.choose(chosen);
    else this.#tokens[0]?.setAttribute('tabindex', '0');
    if (hadFocus) (this.#tokens[this.#chosen] ?? this.#tokens[0])?.focus({ preventScroll: true });
  }

  append(token: StripToken): void {
    if (this.#tokens.length < TOKENS_SHOWN_MAX) this.#make(token, this.list);
    if (this.#tokens.length === 1) this.#tokens[0]?.setAttribute('tabindex', '0');
  }

  /** Gives tokens other colours, without drawing them anew. */
  recolour(levelOf: (index: number) => number | null): void {
    for (const [i, token] of this.#tokens.entries()) setLevel(token, levelOf(i));
  }

  choose(index: number): void {
    const token = this.#tokens[index];
    if (token === undefined || index === this.#chosen) return;
    const before = this.#tokens[this.#chosen] ?? this.#tokens[0];
    before?.setAttribute('tabindex', '-1');
    before?.setAttribute('aria-selected', 'false');
    token.setAttribute('tabindex', '0');
    token.setAttribute('aria-selected', 'true');
    this.#chosen = index;
    this.onChoose(index);
  }

  #make({ text, level, figure, label }: StripToken, parent: Node): void {
    const begins = text.startsWith(' ') && text.length > 1;
    const shown = begins ? text.slice(1) : text;
    const token = el(
      'span',
      {
        role: 'option',
        class: 'token',
        tabindex: -1,
        'aria-selected': 'false',
        'aria-label': label,
        'data-figure': figure,
      },
      /^ +$/.test(shown) && !this.#dense ? '␣'.repeat(Math.min(8, shown.length)) : visible(shown),
    );
    setLevel(token, level);
    this.#tokens.push(token);
    // A space between them is where a line may break, and it is gone where one does.
    if (begins) parent.appendChild(document.createTextNode(' '));
    parent.appendChild(token);
    if (text.includes('\n')) parent.appendChild(el('br', { role: 'presentation' }));
  }

  #chooseElement(target: EventTarget | null): void {
    if (target instanceof HTMLElement) this.choose(this.#tokens.indexOf(target));
  }

  #move(event: KeyboardEvent): void {
    const last = this.#tokens.length - 1;
    const focused = this.#tokens.indexOf(event.target as HTMLElement);
    const from = focused >= 0 ? focused : Math.max(0, this.#chosen);
    const to = ((): number | null => {
      switch (event.key) {
        case 'ArrowRight':
          return Math.min(last, from + 1);
        case 'ArrowLeft':
          return Math.max(0, from - 1);
        case 'ArrowDown':
          return this.#inLine(from, 1);
        case 'ArrowUp':
          return this.#inLine(from, -1);
        case 'Home':
          return 0;
        case 'End':
          return last;
        default:
          return null;
      }
    })();
    if (to === null || last < 0) return;
    event.preventDefault();
    this.#tokens[to]?.focus();
  }

  /** The token of the next or previous line that lies nearest to this one; itself where there is none. */
  #inLine(from: number, direction: 1 | -1): number {
    const start = this.#tokens[from];
    if (start === undefined) return from;
    const middle = (token: HTMLElement): number => token.offsetLeft + token.offsetWidth / 2;
    let line: number | null = null;
    let best = from;
    for (let i = from + direction; i >= 0 && i < this.#tokens.length; i += direction) {
      const token = this.#tokens[i] as HTMLElement;
      if (Math.abs(token.offsetTop - start.offsetTop) < start.offsetHeight / 2) continue;
      line ??= token.offsetTop;
      if (Math.abs(token.offsetTop - line) > token.offsetHeight / 2) break;
      const nearer = (other: HTMLElement): number => Math.abs(middle(other) - middle(start));
      if (best === from || nearer(token) < nearer(this.#tokens[best] as HTMLElement)) best = i;
    }
    return best;
  }
}

/** null: no colour at all. */
function setLevel(token: HTMLElement, level: number | null): void {
  const value = level === null ? undefined : String(level);
  if (token.dataset.level === value) return;
  if (value === undefined) delete token.dataset.level;
  else token.dataset.level = value;
}
