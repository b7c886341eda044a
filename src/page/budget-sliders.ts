/** The two sliders of a request's budget; at the model's own values they ask for nothing. */
import type { Model } from './api-types.js';
import { need } from './dom.js';
import { numberParam } from './link.js';

export interface Budget {
  readonly max_steps?: number;
  readonly threshold?: number;
}

export class BudgetSliders {
  readonly #steps: HTMLInputElement;
  readonly #threshold: HTMLInputElement;
  readonly #stepsShown: HTMLOutputElement;
  readonly #thresholdShown: HTMLOutputElement;
  #own = { max_steps: 1, threshold: 1 };

  /** @param view whose elements are `VIEW-steps` and `VIEW-threshold`, with `-shown` for their values */
  constructor(view: string, onMove: () => void) {
    this.#steps = need(`${view}-steps`, HTMLInputElement);
    this.#threshold = need(`${view}-threshold`, HTMLInputElement);
    this.#stepsShown = need(`${view}-steps-shown`, HTMLOutputElement);
    this.#thresholdShown = need(`${view}-threshold-shown`, HTMLOutputElement);
    for (const slider of [this.#steps, this.#threshold]) {
      slider.addEventListener('input', () => {
        this.#show();
        onMove();
      });
    }
    need(`${view}-reset`, HTMLButtonElement).addEventListener('click', () => {
      this.#set(this.#own.max_steps, this.#own.threshold);
      onMove();
    });
  }

  /** The limits of a model, its own budget, and what a link says. */
  setModel({ halting }: Model, params: URLSearchParams): void {
    this.#own = halting;
    this.#steps.max = String(halting.max_steps);
    this.#set(
      numberParam(params, 'max_steps', 1, halting.max_steps) ?? halting.max_steps,
      numberParam(params, 'threshold', 0.01, 1) ?? halting.threshold,
    );
  }

  get maxSteps(): number {
    return Number(this.#steps.value);
  }

  get threshold(): number {
    return Number(this.#threshold.value);
  }

  /** What a request has to say. */
  get budget(): Budget {
    return {
      ...(this.maxSteps === this.#own.max_steps ? {} : { max_steps: this.maxSteps }),
      ...(this.threshold === this.#own.threshold ? {} : { threshold: this.threshold }),
    };
  }

  #set(maxSteps: number, threshold: number): void {
    this.#steps.value = String(Math.round(maxSteps));
    this.#threshold.value = String(threshold);
    this.#show();
  }

  #show(): void {
    this.#stepsShown.value = `${this.maxSteps} of ${this.#own.max_steps}`;
    this.#thresholdShown.value = this.threshold.toFixed(2);
  }
}
