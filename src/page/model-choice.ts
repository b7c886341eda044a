/** Which of the models that can serve a view it uses: a list when there are several, a name when there is one. */
import type { Model } from './api-types.js';
import { el, need } from './dom.js';

export class ModelChoice {
  readonly #select: HTMLSelectElement;
  #models: readonly Model[] = [];

  /** @param view whose element is `VIEW-model` */
  constructor(view: string, onChange: () => void) {
    this.#select = need(`${view}-model`, HTMLSelectElement);
    this.#select.addEventListener('change', onChange);
  }

  setModels(models: readonly Model[], wanted: string | null): void {
    const before = wanted ?? this.#select.value;
    this.#models = models;
    this.#select.replaceChildren(...models.map(({ id }) => el('option', { value: id }, id)));
    this.#select.value = models.some(({ id }) => id === before) ? before : (models[0]?.id ?? '');
    this.#select.disabled = models.length < 2;
  }

  /** What a link has to say: nothing, where this is the model that a view takes by itself. */
  get linked(): string | null {
    return this.model === this.#models[0] ? null : (this.model?.id ?? null);
  }

  get model(): Model | undefined {
    return this.#models.find(({ id }) => id === this.#select.value);
  }
}
