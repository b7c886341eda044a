/** Translate: source and target as tokens coloured by depth, as the events come; alternatives; what halting saved. */
import { ask, isAbort, messageOf } from '../api.js';
import type { Model, SourceToken, TargetToken, TranslateEvent } from '../api-types.js';
import { BudgetSliders } from '../budget-sliders.js';
import { drawFacts } from '../candidates.js';
import { el, need } from '../dom.js';
import { readEvents } from '../events.js';
import { drawHistogram } from '../histogram.js';
import { Latest, SLIDER_REST_MS } from '../latest.js';
import { linkedText, numberParam, placeOf, writePlace } from '../link.js';
import { ModelChoice } from '../model-choice.js';
import { Notice } from '../notice.js';
import { depthLevel } from '../scale.js';
import { ShareBar } from '../share-bar.js';
import { fixed, marked, milliseconds, percent, quoted, short } from '../text.js';
import { type StripToken, TokenStrip } from '../token-strip.js';
import type { View } from './view.js';

const PATH = 'v1/translate';
const ALTERNATIVES_MAX = 7;

export class TranslateView implements View {
  readonly #text = need('translate-text', HTMLTextAreaElement);
  readonly #output = need('translate-output', HTMLElement);
  readonly #alternatives = need('translate-alternatives', HTMLSelectElement);
  readonly #notice = new Notice('translate');
  readonly #share = new ShareBar('translate');
  readonly #sliders = new BudgetSliders('translate', () => this.#ask(SLIDER_REST_MS));
  readonly #choice = new ModelChoice('translate', () => this.#modelChanged(new URLSearchParams()));
  readonly #sourceStrip = new TokenStrip(need('translate-source', HTMLElement), (i) => this.#showSource(i));
  readonly #targetStrip = new TokenStrip(need('translate-target', HTMLElement), (i) => this.#showTarget(i));
  readonly #translating = new Latest((signal) => this.#translate(signal));
  #source: SourceToken[] = [];
  #target: TargetToken[] = [];
  #opened = false;

  constructor(private readonly models: readonly Model[]) {
    need('translate-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#text.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.#ask();
    });
    this.#alternatives.addEventListener('change', () => this.#ask());
  }

  open(params: URLSearchParams): void {
    if (this.#opened && params.size === 0) {
      this.#writePlace();
      this.#translating.resume();
      return;
    }
    this.#opened = true;
    this.#text.value = params.get('text') ?? this.#text.defaultValue;
    this.#alternatives.value = String(numberParam(params, 'alternatives', 0, ALTERNATIVES_MAX) ?? 0);
    if (this.#alternatives.value === '') this.#alternatives.value = '0';
    const able = this.models.filter(({ task }) => task === 'translate');
    if (able.length === 0) {
      this.#notice.failed('No model that translates is served: GET /v1/models lists those that are.');
      return;
    }
    this.#choice.setModels(able, params.get('model'));
    this.#modelChanged(params);
  }

  close(): void {
    this.#translating.interrupt();
  }

  #modelChanged(params: URLSearchParams): void {
    const { model } = this.#choice;
    if (model === undefined) return;
    need('translate-languages', HTMLElement).textContent = `${model.language} → ${model.target_language ?? '?'}`;
    this.#output.lang = model.target_language ?? '';
    this.#text.lang = model.language;
    this.#sliders.setModel(model, params);
    this.#ask();
  }

  #ask(delayMs = 0): void {
    this.#writePlace();
    this.#share.show(PATH, this.#body());
    this.#translating.ask(delayMs);
  }

  #body(): object {
    const alternatives = Number(this.#alternatives.value);
    return {
      model: this.#choice.model?.id,
      input: this.#text.value,
      ...this.#sliders.budget,
      ...(alternatives === 0 ? {} : { alternatives }),
      stream: true,
    };
  }

  #writePlace(): void {
    const { max_steps = null, threshold = null } = this.#sliders.budget;
    const model = this.#choice.linked;
    const alternatives = this.#alternatives.value === '0' ? null : this.#alternatives.value;
    writePlace(placeOf('translate', { model, alternatives, max_steps, threshold, text: linkedText(this.#text) }));
  }

  async #translate(signal: AbortSignal): Promise<void> {
    if (this.#text.value === '') {
      this.#notice.done('Write a text to translate.');
      return;
    }
    this.#notice.busy('Translating …');
    try {
      const { body } = await ask(PATH, this.#body(), signal);
      this.#share.show(PATH, this.#body());
      this.#begin();
      let whole = '';
      for await (const data of readEvents(body as ReadableStream<Uint8Array>)) {
        if (data === '[DONE]') break;
        whole = this.#take(JSON.parse(data) as TranslateEvent, whole);
      }
    } catch (error) {
      if (!isAbort(error)) this.#notice.failed(messageOf(error));
    }
  }

  #begin(): void {
    this.#source = [];
    this.#target = [];
    this.#sourceStrip.show([]);
    this.#targetStrip.show([]);
    this.#output.textContent = '';
    need('translate-others', HTMLElement).replaceChildren();
    need('translate-others-title', HTMLElement).hidden = true;
  }

  /** @param whole the text of the sentences that are final. @returns the same with this event's */
  #take(event: TranslateEvent, whole: string): string {
    switch (event.type) {
      case 'token':
        this.#output.textContent = whole + event.text_so_far;
        this.#targetStrip.append(this.#targetToken(event.token));
        return whole;
      case 'sentence': {
        this.#output.textContent = whole + event.text;
        this.#source.push(...(event.source_tokens ?? []));
        this.#target.push(...(event.tokens ?? []));
        this.#sourceStrip.show(this.#source.map((token) => this.#sourceToken(token)));
        this.#targetStrip.show(this.#target.map((token) => this.#targetToken(token)));
        return whole + event.text;
      }
      case 'result':
        this.#showResult(event);
        return whole;
      case 'error':
        throw new Error(event.error.message);
      default:
        return event satisfies never;
    }
  }

  #showResult({ results, usage, timing }: Extract<TranslateEvent, { type: 'result' }>): void {
    const [result] = results;
    if (result === undefined) return;
    const { encoder, decoder } = result.ponder;
    const saved = usage.position_steps_fixed === 0 ? 0 : 1 - usage.position_steps / usage.position_steps_fixed;
    drawFacts(need('translate-facts', HTMLElement), [
      ['Time', milliseconds(timing.total_ms)],
      ['First token after', milliseconds(timing.first_token_ms ?? Number.NaN)],
      ['Mean depth, reading', `${fixed(encoder.mean, 2)} of ${encoder.histogram.length - 1}`],
      ['Mean depth, writing', `${fixed(decoder.mean, 2)} of ${decoder.histogram.length - 1}`],
      ['Steps saved', percent(saved)],
    ]);
    drawHistogram(need('translate-encoder-histogram', HTMLElement), encoder.histogram);
    drawHistogram(need('translate-decoder-histogram', HTMLElement), decoder.histogram);
    need('translate-others-title', HTMLElement).hidden = result.alternatives.length === 0;
    need('translate-others', HTMLElement).replaceChildren(
      ...result.alternatives.map(({ text, score }) =>
        el('li', {}, el('span', { lang: this.#output.lang }, text), el('span', { class: 'score' }, fixed(score, 2))),
      ),
    );
    const ended = { stop: '', length: ' It was cut at max_new_tokens.', repetition: ' It began to repeat itself.' };
    const how = ended[result.finish_reason as keyof typeof ended] ?? '';
    this.#notice.done(`Translated in ${milliseconds(timing.total_ms)}, ${percent(saved)} of the steps saved.${how}`);
  }

  #sourceToken({ text, depth }: SourceToken): StripToken {
    return this.#stripToken(text, depth, '');
  }

  #targetToken({ text, depth, logprob }: TargetToken): StripToken {
    return this.#stripToken(text, depth, `, log-probability ${fixed(logprob, 2)}`);
  }

  #stripToken(text: string, depth: number, more: string): StripToken {
    const maxSteps = this.#choice.model?.halting.max_steps ?? 1;
    return {
      text,
      level: depthLevel(depth, maxSteps),
      figure: String(depth),
      label: `${quoted(text)}, depth ${depth}${more}`,
    };
  }

  #showSource(index: number): void {
    const token = this.#source[index];
    if (token !== undefined) this.#showFacts(token.text, [['Depth N in the encoder', String(token.depth)]]);
  }

  #showTarget(index: number): void {
    const token = this.#target[index];
    if (token === undefined) return;
    this.#showFacts(token.text, [
      ['Log-probability', `${fixed(token.logprob, 3)} nats`],
      ['Probability', `${short(Math.exp(token.logprob) * 100)} %`],
      ['Depth N in the decoder', String(token.depth)],
    ]);
  }

  #showFacts(text: string, facts: readonly (readonly [string, string])[]): void {
    need('translate-token', HTMLElement).textContent = marked(text);
    drawFacts(need('translate-token-facts', HTMLElement), facts);
  }
}
