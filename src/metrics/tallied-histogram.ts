import { Histogram, type MetricObjectWithValues, type MetricValueWithName, type Registry } from 'prom-client';

interface Tally {
  readonly labels: StackLabels;
  /** [buckets + 1] observations per bucket, not cumulated; the last one is above every bound. */
  readonly counts: number[];
  sum: number;
}

export interface StackLabels {
  readonly model: string;
  readonly stage: string;
}

/**
 * A histogram of the labels `model` and `stage` that is fed with counts. The engine reports thousands of positions at a time, already
 * counted; prom-client's own histogram would have to observe each of them on the main thread.
 */
export class TalliedHistogram extends Histogram<'model' | 'stage'> {
  readonly #name: string;
  readonly #help: string;
  readonly #bounds: readonly number[];
  readonly #tallies = new Map<string, Tally>();

  constructor(name: string, help: string, bounds: readonly number[], registry: Registry) {
    super({ name, help, buckets: [...bounds], labelNames: ['model', 'stage'], registers: [registry] });
    this.#name = name;
    this.#help = help;
    this.#bounds = bounds;
  }

  /** @param counts observations per bucket; what is past the last bound is counted as +Inf */
  add({ model, stage }: StackLabels, counts: readonly number[], sum: number): void {
    const key = JSON.stringify([model, stage]);
    const tally = this.#tallies.get(key) ?? {
      labels: { model, stage },
      counts: new Array(this.#bounds.length + 1).fill(0),
      sum: 0,
    };
    for (const [i, count] of counts.entries()) {
      const bucket = Math.min(i, this.#bounds.length);
      tally.counts[bucket] = (tally.counts[bucket] ?? 0) + count;
    }
    tally.sum += sum;
    this.#tallies.set(key, tally);
  }

  override async get(): Promise<MetricObjectWithValues<MetricValueWithName<'model' | 'stage'>>> {
    const values: MetricValueWithName<'model' | 'stage'>[] = [];
    const put = (suffix: string, value: number, labels: object): void => {
      values.push({ metricName: `${this.#name}_${suffix}`, value, labels });
    };
    for (const { labels, counts, sum } of this.#tallies.values()) {
      let count = 0;
      for (const [i, bound] of this.#bounds.entries()) {
        count += counts[i] ?? 0;
        put('bucket', count, { le: bound, ...labels });
      }
      count += counts[this.#bounds.length] ?? 0;
      put('bucket', count, { le: '+Inf', ...labels });
      put('sum', sum, labels);
      put('count', count, labels);
    }
    // prom-client types `type` as an enum that exists only in its declarations; at run time it is this word.
    const type = 'histogram' as never;
    return { name: this.#name, help: this.#help, type, aggregator: 'sum', collect: () => {}, values };
  }

  /** What the registry calls for the text format, in preference to `get`. */
  getForPromString(): ReturnType<TalliedHistogram['get']> {
    return this.get();
  }
}
