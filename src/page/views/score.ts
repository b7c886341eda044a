/** Score: a text as its tokens, coloured by depth; what each cost and what was expected; quality against cost as the budget moves. */
import { askJson, isAbort, messageOf } from '../api.js';
import type { Model, ScoredToken, ScoreReply } from '../api-types.js';
import { BudgetSliders } from '../budget-sliders.js';
import { drawCandidates, drawFacts } from '../candidates.js';
import { Curve } from '../curve.js';
import { need } from '../dom.js';
import { drawHistogram } from '../histogram.js';
import { Latest, SLIDER_REST_MS } from '../latest.js';
import { linkedText, placeOf, writePlace } from '../link.js';
import { ModelChoice } from '../model-choice.js';
import { Notice } from '../notice.js';
import { paintedSince } from '../paint.js';
import { depthLevel } from '../scale.js';
import { ShareBar } from '../share-bar.js';
import { count, fixed, marked, milliseconds, percent, quoted, short } from '../text.js';
import { type StripToken, TOKENS_SHOWN_MAX, TokenStrip } from '../token-strip.js';
import type { View } from './view.js';

const PATH = 'v1/score';
const CANDIDATES = 5;

export class ScoreView implements View {
  readonly #text = need('score-text', HTMLTextAreaElement);
  readonly #notice = new Notice('score');
  readonly #share = new ShareBar('score');
  readonly #sliders = new BudgetSliders('score', () => this.#ask(SLIDER_REST_MS));
  readonly #choice = new ModelChoice('score', () => this.#modelChanged(new URLSearchParams()));
  readonly #strip = new TokenStrip(need('score-tokens', HTMLElement), (index) => this.#showToken(index));
  readonly #curve = new Curve(need('score-curve', SVGSVGElement), need('score-curve-rows', HTMLTableSectionElement));
  readonly #scoring = new Latest((signal) => this.#score(signal));
  readonly #sweeping = new Latest((signal) => this.#sweep(signal));
  #tokens: readonly ScoredToken[] = [];
  /** Model and text that the curve belongs to. */
  #curveOf = '';
  #opened = false;

  constructor(private readonly models: readonly Model[]) {
    need('score-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.#text.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.#ask();
    });
    need('score-sweep', HTMLButtonElement).addEventListener('click', () => this.#sweeping.ask());
    need('score-curve-clear', HTMLButtonElement).addEventListener('click', () => this.#curve.clear());
  }

  open(params: URLSearchParams): void {
    if (this.#opened && params.size === 0) {
      this.#writePlace();
      this.#scoring.resume();
      return;
    }
    this.#opened = true;
    this.#text.value = params.get('text') ?? this.#text.defaultValue;
    const able = this.models.filter(({ task, family }) => task === 'score' && family === 'universal-transformer');
    if (able.length === 0) {
      this.#notice.failed('No model that scores by depth is served: GET /v1/models lists those that are.');
      return;
    }
    this.#choice.setModels(able, params.get('model'));
    this.#modelChanged(params);
  }

  close(): void {
    this.#scoring.interrupt();
    this.#sweeping.cancel();
  }

  #modelChanged(params: URLSearchParams): void {
    const { model } = this.#choice;
    if (model === undefined) return;
    this.#sliders.setModel(model, params);
    this.#ask();
  }

  #ask(delayMs = 0): void {
    this.#sweeping.cancel();
    this.#writePlace();
    this.#share.show(PATH, this.#body());
    this.#scoring.ask(delayMs);
  }

  #body(): object {
    return {
      model: this.#choice.model?.id,
      input: this.#text.value,
      ...this.#sliders.budget,
      top_logprobs: CANDIDATES,
    };
  }

  #writePlace(): void {
    const { max_steps = null, threshold = null } = this.#sliders.budget;
    const model = this.#choice.linked;
    writePlace(placeOf('score', { model, max_steps, threshold, text: linkedText(this.#text) }));
  }

  async #score(signal: AbortSignal): Promise<void> {
    if (this.#text.value === '') {
      this.#notice.done('Write a text to score.');
      return;
    }
    this.#notice.busy('Scoring …');
    try {
      const reply = await askJson<ScoreReply>(PATH, this.#body(), signal);
      this.#share.show(PATH, this.#body());
      const repliedMs = performance.now();
      this.#showReply(reply);
      const painted = await paintedSince('score-repaint', repliedMs);
      const { total_ms, queue_ms } = reply.timing;
      const times = `${milliseconds(total_ms)} on the server (${milliseconds(queue_ms)} waiting), ${milliseconds(painted)} to draw`;
      this.#notice.done(`${count(reply.usage.tokens)} tokens scored: ${times}.`);
    } catch (error) {
      if (!isAbort(error)) this.#notice.failed(messageOf(error));
    }
  }

  #showReply({ results, usage }: ScoreReply): void {
    const [result] = results;
    if (result === undefined) return;
    const maxSteps = result.ponder.histogram.length - 1;
    this.#tokens = result.tokens ?? [];
    this.#strip.show(this.#tokens.map((token) => stripToken(token, maxSteps)));
    // The first time, the token that took the most steps: something to look at.
    if (this.#strip.chosen < 0) this.#strip.choose(this.#tokens.findIndex(({ depth }) => depth === result.ponder.max));
    else this.#showToken(this.#strip.chosen);
    const left = this.#tokens.length - TOKENS_SHOWN_MAX;
    need('score-more', HTMLElement).textContent = left > 0 ? `and ${count(left)} tokens more, which are not drawn` : '';
    drawHistogram(need('score-histogram', HTMLElement), result.ponder.histogram);
    const saved = 1 - usage.position_steps / usage.position_steps_fixed;
    drawFacts(need('score-facts', HTMLElement), [
      ['Bits per byte', fixed(result.bits_per_byte, 3)],
      ['Perplexity', short(result.perplexity)],
      ['Mean depth', `${fixed(result.ponder.mean, 2)} of ${maxSteps}`],
      ['Ponder cost N + R', fixed(result.ponder.cost, 2)],
      ['Steps saved', percent(saved)],
    ]);
    this.#addPoint(result.ponder.mean, result.bits_per_byte, this.#sliders.maxSteps, this.#sliders.threshold);
  }

  #addPoint(meanDepth: number, bitsPerByte: number | null, maxSteps: number, threshold: number): void {
    const curveOf = `${this.#choice.model?.id} ${this.#text.value}`;
    if (curveOf !== this.#curveOf) this.#curve.clear();
    this.#curveOf = curveOf;
    if (bitsPerByte !== null) this.#curve.add({ maxSteps, threshold, meanDepth, bitsPerByte });
  }

  /** Every number of steps in turn at the present threshold, the present setting last. */
  async #sweep(signal: AbortSignal): Promise<void> {
    const { model } = this.#choice;
    if (model === undefined || this.#text.value === '') return;
    const { maxSteps, threshold } = this.#sliders;
    const all = Array.from({ length: model.halting.max_steps }, (_, i) => i + 1).filter((steps) => steps !== maxSteps);
    this.#notice.busy('Trying every number of steps …');
    try {
      for (const steps of [...all, maxSteps]) {
        const body = { ...this.#body(), max_steps: steps, top_logprobs: 0, return_tokens: false };
        const { results } = await askJson<ScoreReply>(PATH, body, signal);
        const [result] = results;
        if (result !== undefined) this.#addPoint(result.ponder.mean, result.bits_per_byte, steps, threshold);
      }
      this.#notice.done(`Tried ${all.length + 1} numbers of steps at threshold ${threshold.toFixed(2)}.`);
    } catch (error) {
      if (!isAbort(error)) this.#notice.failed(messageOf(error));
    }
  }

  #showToken(index: number): void {
    const token = this.#tokens[index];
    if (token === undefined) return;
    need('score-token', HTMLElement).textContent = marked(token.text);
    drawFacts(need('score-token-facts', HTMLElement), [
      ['Log-probability', `${fixed(token.logprob, 3)} nats`],
      ['Probability', `${short(Math.exp(token.logprob) * 100)} %`],
      ['Depth N', String(token.depth)],
      ['Remainder R', fixed(token.remainder, 3)],
    ]);
    drawCandidates(need('score-candidates', HTMLElement), token.top_logprobs ?? [], token.text);
  }
}

function stripToken({ text, depth, logprob }: ScoredToken, maxSteps: number): StripToken {
  return {
    text,
    level: depthLevel(depth, maxSteps),
    figure: String(depth),
    label: `${quoted(text)}, depth ${depth}, log-probability ${fixed(logprob, 2)}`,
  };
}
