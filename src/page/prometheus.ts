/** Metrics in Prometheus text format, and what two scrapes of them say about the time between. */

export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** By the name of the series. */
export type Scrape = ReadonlyMap<string, readonly Sample[]>;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES: Readonly<Record<string, string>> = { n: '\n' };

export function parseScrape(text: string): Scrape {
  const scrape = new Map<string, Sample[]>();
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue;
    const [, name, labels = '', value = ''] = LINE.exec(line) ?? [];
    if (name === undefined) continue;
    const sample = { labels: parseLabels(labels), value: parseValue(value) };
    const samples = scrape.get(name);
    if (samples === undefined) scrape.set(name, [sample]);
    else samples.push(sample);
  }
  return scrape;
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const [, name = '', value = ''] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, character: string) => ESCAPES[character] ?? character);
  }
  return labels;
}

function parseValue(text: string): number {
  if (text === '+Inf') return Number.POSITIVE_INFINITY;
  return text === '-Inf' ? Number.NEGATIVE_INFINITY : Number(text);
}

type Labels = Readonly<Record<string, string>>;

/** Sum of the samples that bear these labels; 0 where there are none, as for a counter that has not counted yet. */
export function sumOf(scrape: Scrape, name: string, labels: Labels = {}): number {
  let sum = 0;
  for (const sample of scrape.get(name) ?? []) if (bears(sample, labels)) sum += sample.value;
  return sum;
}

/** How far a counter moved. One that fell was started anew with its server, and has moved by what it shows now. */
export function moved(before: Scrape, after: Scrape, name: string, labels: Labels = {}): number {
  const [from, to] = [sumOf(before, name, labels), sumOf(after, name, labels)];
  return to < from ? to : to - from;
}

/**
 * The quantile of what a histogram observed between two scrapes, by its buckets, interpolated within one as Prometheus does; NaN
 * when it observed nothing.
 */
export function quantile(before: Scrape, after: Scrape, name: string, q: number, labels: Labels = {}): number {
  const bounds = [...new Set((after.get(`${name}_bucket`) ?? []).map(({ labels: { le = '' } }) => le))];
  const buckets = bounds
    .map((le) => ({ bound: parseValue(le), count: moved(before, after, `${name}_bucket`, { ...labels, le }) }))
    .sort((a, b) => a.bound - b.bound);
  const total = buckets.at(-1)?.count ?? 0;
  if (total === 0) return Number.NaN;
  const rank = q * total;
  const at = buckets.findIndex(({ count }) => count >= rank);
  const { bound, count } = buckets[at] ?? { bound: Number.NaN, count: 0 };
  const below = buckets[at - 1] ?? { bound: 0, count: 0 };
  if (!Number.isFinite(bound)) return below.bound;
  return below.bound + ((rank - below.count) / Math.max(1e-9, count - below.count)) * (bound - below.bound);
}

export function labelValues(scrape: Scrape, name: string, label: string): string[] {
  return [...new Set((scrape.get(name) ?? []).flatMap(({ labels }) => labels[label] ?? []))].sort();
}

function bears({ labels }: Sample, wanted: Labels): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}
