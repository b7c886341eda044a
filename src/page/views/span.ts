/** Span: how far each head of a model with attention spans looks back, in general and for one byte of a text. */
import { askJson, isAbort, messageOf } from '../api.js';
import type { Model, SpanReply, SpanToken } from '../api-types.js';
import { drawCandidates, drawFacts } from '../candidates.js';
import { el, need } from '../dom.js';
import { Latest, SLIDER_REST_MS } from '../latest.js';
import { linkedText, numberParam, placeOf, writePlace } from '../link.js';
import { ModelChoice } from '../model-choice.js';
import { Notice } from '../notice.js';
import { paintedSince } from '../paint.js';
import { shareLevel, spanLevel } from '../scale.js';
import { ShareBar } from '../share-bar.js';
import { cappedKeys, distanceTo, looked, meanOf, type SpanFacts, shareLooking } from '../span-reach.js';
import { count, fixed, marked, milliseconds, quoted, short } from '../text.js';
import { TOKENS_SHOWN_MAX, TokenStrip } from '../token-strip.js';
import type { View } from './view.js';

const PATH = 'v1/score';
const CANDIDATES = 5;
/** A byte can't surprise by much more than this: uniform guessing costs 8 bits. */
const BITS_SHOWN_MAX = 8;

export class SpanView implements View {
  readonly #text = need('span-text', HTMLTextAreaElement);
  readonly #cap = need('span-cap', HTMLInputElement);
  readonly #capShown = need('span-cap-shown', HTMLOutputElement);
  /** What the colours of the text say: `heads`, `surprise`, or a head as `layer.head`. */
  readonly #show = need('span-show', HTMLSelectElement);
  readonly #notice = new Notice('span');
  readonly #share = new ShareBar('span');
  readonly #choice = new ModelChoice('span', () => this.#modelChanged(new URLSearchParams()));
  readonly #strip = new TokenStrip(need('span-tokens', HTMLElement), () => this.#showToken());
  readonly #scoring = new Latest((signal) => this.#score(signal));
  #span: SpanFacts | null = null;
  #tokens: readonly SpanToken[] = [];
  #opened = false;

  constructor(private readonly models: readonly Model[]) {
    need('span-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#text.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.#ask();
    });
    this.#cap.addEventListener('input', () => {
      this.#drawGrid();
      this.#ask(SLIDER_REST_MS);
    });
    this.#show.addEventListener('change', () => this.#showToken());
  }

  open(params: URLSearchParams): void {
    if (this.#opened && params.size === 0) {
      this.#writePlace();
      this.#scoring.resume();
      return;
    }
    const able = this.models.filter(({ family }) => family === 'adaptive-span');
    need('span-none', HTMLElement).hidden = able.length > 0;
    need('span-body', HTMLElement).hidden = able.length === 0;
    if (able.length === 0) return;
    this.#opened = true;
    this.#text.value = params.get('text') ?? this.#text.defaultValue;
    this.#choice.setModels(able, params.get('model'));
    this.#modelChanged(params);
  }

  close(): void {
    this.#scoring.interrupt();
  }

  #modelChanged(params: URLSearchParams): void {
    const span = this.#choice.model?.span;
    if (span === undefined || span === null) {
      this.#notice.failed('The server does not tell the spans of this model.');
      return;
    }
    this.#span = span;
    this.#cap.max = String(span.span_max);
    this.#cap.value = String(numberParam(params, 'span_max', 0, span.span_max) ?? span.span_max);
    const heads = span.keys.flatMap((layer, l) => layer.map((keys, h) => [l, h, keys] as const));
    this.#show.replaceChildren(
      el('option', { value: 'heads' }, 'how many heads look there'),
      el('option', { value: 'surprise' }, 'how surprising each byte is'),
      ...heads.map(([l, h, keys]) => el('option', { value: `${l}.${h}` }, `layer ${l}, head ${h} (${keys} keys)`)),
    );
    this.#show.value = params.get('show') ?? 'heads';
    if (this.#show.value === '') this.#show.value = 'heads';
    this.#drawGrid();
    this.#ask();
  }

  /** The cap that the request names, or null at its upper end. */
  get #capAsked(): number | null {
    return this.#cap.value === this.#cap.max ? null : Number(this.#cap.value);
  }

  #ask(delayMs = 0): void {
    this.#capShown.value = this.#capAsked === null ? 'none' : `${this.#cap.value} keys`;
    this.#writePlace();
    this.#share.show(PATH, this.#body());
    this.#scoring.ask(delayMs);
  }

  #body(): object {
    const cap = this.#capAsked;
    return {
      model: this.#choice.model?.id,
      input: this.#text.value,
      ...(cap === null ? {} : { span_max: cap }),
      top_logprobs: CANDIDATES,
    };
  }

  #writePlace(): void {
    const model = this.#choice.linked;
    const show = this.#show.value === 'heads' || this.#show.value === '' ? null : this.#show.value;
    writePlace(placeOf('span', { model, show, span_max: this.#capAsked, text: linkedText(this.#text) }));
  }

  async #score(signal: AbortSignal): Promise<void> {
    if (this.#text.value === '') {
      this.#notice.done('Write a text to score.');
      return;
    }
    this.#notice.busy('Scoring …');
    try {
      const reply = await askJson<SpanReply>(PATH, this.#body(), signal);
      this.#share.show(PATH, this.#body());
      const repliedMs = performance.now();
      this.#showReply(reply);
      const painted = await paintedSince('span-repaint', repliedMs);
      const times = `${milliseconds(reply.timing.total_ms)} on the server, ${milliseconds(painted)} to draw`;
      this.#notice.done(`${count(reply.usage.tokens)} bytes scored: ${times}.`);
    } catch (error) {
      if (!isAbort(error)) this.#notice.failed(messageOf(error));
    }
  }

  #showReply({ results, usage }: SpanReply): void {
    const [result] = results;
    const span = this.#span;
    if (result === undefined || span === null) return;
    this.#tokens = result.tokens ?? [];
    this.#strip.show(
      this.#tokens.map(({ text, logprob }) => ({
        text,
        level: 0,
        figure: '',
        label: `${quoted(text)}, ${fixed(bits(logprob), 1)} bits`,
      })),
    );
    const left = this.#tokens.length - TOKENS_SHOWN_MAX;
    need('span-more', HTMLElement).textContent = left > 0 ? `and ${count(left)} bytes more, which are not drawn` : '';
    drawFacts(need('span-facts', HTMLElement), [
      ['Bits per byte', fixed(result.bits_per_byte, 3)],
      ['Mean span', `${short(result.span.mean)} of ${count(span.span_max)} keys`],
      ['Keys looked at, of full spans', `${fixed((100 * usage.keys) / usage.keys_full, 1)} %`],
      ['Keys computed for that', `${fixed((100 * usage.keys_computed) / usage.keys_full, 1)} %`],
    ]);
    if (this.#strip.chosen < 0) this.#strip.choose(Math.min(this.#tokens.length, TOKENS_SHOWN_MAX) - 1);
    this.#showToken();
  }

  #showToken(): void {
    this.#drawGrid();
    this.#recolour();
    this.#writePlace();
    const index = this.#strip.chosen;
    const token = this.#tokens[index];
    if (token === undefined) return;
    need('span-token', HTMLElement).textContent = marked(token.text);
    drawFacts(need('span-token-facts', HTMLElement), [
      ['Surprise', `${fixed(bits(token.logprob), 2)} bits`],
      ['Place in the text', `byte ${count(index + 1)}`],
      ['Its heads look back', `${short(this.#meanSpan(index))} keys on average`],
    ]);
    drawCandidates(need('span-candidates', HTMLElement), token.top_logprobs ?? [], token.text);
  }

  #meanSpan(index: number): number {
    const own = this.#tokens[index]?.span;
    return own ?? meanOf(this.#spansAt(index).flat());
  }

  /** Of each layer and head, for the byte at `index`; before one is chosen, in general. */
  #spansAt(index: number): number[][] {
    const { kind } = this.#span ?? {};
    const keys = this.#span === null ? [] : cappedKeys(this.#span, this.#capAsked);
    return index < 0 || kind === 'dynamic' ? keys : keys.map((heads) => heads.map((own) => looked(own, index)));
  }

  #drawGrid(): void {
    const span = this.#span;
    if (span === null) return;
    const rows = this.#spansAt(this.#strip.chosen);
    const heads = rows[0]?.map((_, head) => el('th', { scope: 'col' }, `head ${head}`)) ?? [];
    need('span-grid-heads', HTMLElement).replaceChildren(el('td'), ...heads);
    need('span-grid-rows', HTMLElement).replaceChildren(
      ...rows.map((layer, l) =>
        el(
          'tr',
          {},
          el('th', { scope: 'row' }, `layer ${l}`),
          ...layer.map((keys, h) => this.#cell(`${l}.${h}`, keys, spanLevel(keys, span.ramp, span.span_max))),
        ),
      ),
    );
    const what = span.kind === 'dynamic' ? 'the most that each head may look back' : 'how far each head looks back';
    const chosen =
      this.#strip.chosen >= 0 && span.kind !== 'dynamic' ? 'how far each head looked for the chosen byte' : what;
    need('span-grid-title', HTMLElement).textContent = `Keys: ${chosen}`;
  }

  /** A click is a short cut for the list above the text, which does the same by keyboard. */
  #cell(head: string, keys: number, level: number): HTMLTableCellElement {
    const cell = el('td', { 'data-level': level, class: head === this.#show.value ? 'is-shown' : '' }, count(keys));
    cell.addEventListener('click', () => {
      this.#show.value = this.#show.value === head ? 'heads' : head;
      this.#showToken();
    });
    return cell;
  }

  #recolour(): void {
    const show = this.#show.value;
    const index = this.#strip.chosen;
    if (show === 'surprise') {
      this.#strip.recolour((i) => shareLevel(bits(this.#tokens[i]?.logprob ?? 0) / BITS_SHOWN_MAX));
      return;
    }
    const [layer, head] = show.split('.').map(Number);
    const all = this.#spansAt(index);
    const own = all[layer ?? 0]?.[head ?? 0];
    const dynamic = this.#tokens[index]?.span;
    const spans = show !== 'heads' && own !== undefined ? [own] : dynamic === undefined ? all.flat() : [dynamic];
    this.#strip.recolour((i) => {
      if (i >= index) return null;
      const share = shareLooking(spans, distanceTo(i, index));
      return share === 0 ? null : shareLevel(share);
    });
  }
}

function bits(logprob: number): number {
  return -logprob / Math.LN2;
}
