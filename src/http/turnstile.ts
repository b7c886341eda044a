/**
 * Lets so much work into one turn of the event loop, in the order in which it came. What follows a body (parsing, checking, tokenising, handing
 * over) takes the main thread in proportion to its bytes, writing a reply in proportion to its tokens; when two hundred are there at once,
 * everything else, timers, probes and the results of the engine, would wait for all of them.
 */
export class Turnstile {
  readonly #waiting: { readonly cost: number; readonly enter: () => void }[] = [];
  #costInTurn = 0;

  /**
   * @param costMax of a turn; what costs more has one for itself
   * @param costMin what the least costs as well
   */
  constructor(
    private readonly costMax: number,
    private readonly costMin: number,
    private readonly nextTurn: (callback: () => void) => void = setImmediate,
  ) {}

  /** Resolves when its turn has come. */
  async enter(atCost: number): Promise<void> {
    const cost = Math.max(this.costMin, atCost);
    if (this.#waiting.length === 0 && this.#fits(cost)) return this.#take(cost);
    return new Promise((enter) => {
      this.#waiting.push({ cost, enter });
    });
  }

  #fits(cost: number): boolean {
    return this.#costInTurn === 0 || this.#costInTurn + cost <= this.costMax;
  }

  #take(cost: number): void {
    if (this.#costInTurn === 0) this.nextTurn(() => this.#turn());
    this.#costInTurn += cost;
  }

  #turn(): void {
    this.#costInTurn = 0;
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.cost); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#take(next.cost);
      next.enter();
    }
  }
}
