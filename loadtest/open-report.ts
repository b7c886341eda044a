/** A run in words for the terminal, and as one page that needs nothing but itself. Pure. */
import { linePlot, type Series } from '../src/cli/plot.js';
import { escaped, short } from '../src/cli/plot-frame.js';
import { table } from '../src/cli/terminal.js';
import { barPlot } from './bar-plot.js';
import type { Percentiles } from './latencies.js';
import type { PhaseResult } from './phase.js';
import type { Mode } from './workloads.js';

export interface Peak {
  readonly okPerSecond: number;
  readonly tokensPerSecond: number;
}

const OUTCOME = (key: string): string => key.slice(key.indexOf(' ') + 1);

export function renderPhases(phases: readonly PhaseResult[], peak: Peak): string {
  const ms = (latency: Percentiles | null, of: keyof Omit<Percentiles, 'curve'>) =>
    latency === null ? '-' : latency[of].toFixed(0);
  const rows = phases.map((phase) => [
    phase.name,
    phase.mode,
    phase.offeredPerSecond.toFixed(1),
    phase.okPerSecond.toFixed(1),
    phase.tokensPerSecond.toFixed(0),
    (phase.tokensPerSecond / peak.tokensPerSecond).toFixed(2),
    ms(phase.latency, 'p50Ms'),
    ms(phase.latency, 'p99Ms'),
    ms(phase.latency, 'maxMs'),
    phase.meanDepth?.toFixed(2) ?? '-',
    outcomesOf(phase),
  ]);
  const head = [
    'phase',
    'depth',
    'offered/s',
    'good/s',
    'tokens/s',
    'of peak',
    'p50 ms',
    'p99 ms',
    'max ms',
    'mean N',
    'outcomes',
  ];
  return table([head, ...rows], [2, 3, 4, 5, 6, 7, 8, 9]);
}

export function outcomesOf({ client }: PhaseResult): string {
  return Object.entries(client.outcomes)
    .map(([key, count]) => `${OUTCOME(key)} ${count}`)
    .join(', ');
}

export interface Page {
  readonly title: string;
  readonly facts: readonly (readonly [string, string])[];
  readonly phases: readonly PhaseResult[];
  readonly problems: readonly string[];
}

/** One HTML file with its plots inside; it loads nothing. */
export function renderPage({ title, facts, phases, problems }: Page): string {
  const plots = [
    throughputPlot(phases),
    latencyLoadPlot(phases),
    latencyPlot(phases),
    depthPlot(phases),
    sharePlot(phases),
  ];
  const row = (cells: readonly string[], tag = 'td') =>
    `<tr>${cells.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`;
  const verdict =
    problems.length === 0
      ? '<p class="ok">Client and server agree on every request and every token; every request got exactly one answer.</p>'
      : `<p class="bad">The run failed:</p><ul>${problems.map((problem) => `<li>${escaped(problem)}</li>`).join('')}</ul>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escaped(title)}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
figure{display:inline-block;margin:8px;border:1px solid #ddd}table{border-collapse:collapse;margin:1em 0}
td,th{padding:2px 10px;border-bottom:1px solid #ddd;text-align:left;font-variant-numeric:tabular-nums}
.ok{color:#060}.bad{color:#a00;font-weight:bold}
</style></head><body>
<h1>${escaped(title)}</h1>
${verdict}
<table>${facts.map(([name, value]) => row([name, value])).join('')}</table>
${plots.map((plot) => `<figure>${plot}</figure>`).join('\n')}
<table>${row(['phase', 'depth', 'offered/s', 'good/s', 'tokens/s', 'p50 ms', 'p90 ms', 'p99 ms', 'p99.9 ms', 'max ms', 'outcomes'], 'th')}
${phases.map((phase) => row(cellsOf(phase))).join('\n')}</table>
<p>Latencies count from the intended start of a request, so a stall is charged to every request that it delays.</p>
</body></html>
`;
}

function cellsOf(phase: PhaseResult): string[] {
  const { latency } = phase;
  const values = latency === null ? [] : [latency.p50Ms, latency.p90Ms, latency.p99Ms, latency.p999Ms, latency.maxMs];
  const padded = Array.from({ length: 5 }, (_, i) => (values[i] === undefined ? '-' : short(values[i])));
  return [
    phase.name,
    phase.mode,
    short(phase.offeredPerSecond),
    short(phase.okPerSecond),
    short(phase.tokensPerSecond),
    ...padded,
    outcomesOf(phase),
  ];
}

function byMode(phases: readonly PhaseResult[], y: (phase: PhaseResult) => number | undefined): Series[] {
  return (['adaptive', 'fixed'] as const satisfies readonly Mode[]).flatMap((mode) => {
    const points = phases
      .filter((phase) => phase.mode === mode)
      .flatMap((phase) => {
        const value = y(phase);
        return value === undefined ? [] : [[phase.offeredPerSecond, value] as const];
      })
      .sort(([a], [b]) => a - b);
    return points.length === 0 ? [] : [{ name: mode === 'adaptive' ? 'adaptive depth' : 'full depth', points }];
  });
}

const throughputPlot = (phases: readonly PhaseResult[]) =>
  linePlot({
    title: 'Throughput over offered load',
    xLabel: 'requests a second, offered',
    yLabel: 'answered within deadline, a second',
    series: byMode(phases, ({ okPerSecond }) => okPerSecond),
  });

const latencyLoadPlot = (phases: readonly PhaseResult[]) =>
  linePlot({
    title: 'p99 latency over offered load',
    xLabel: 'requests a second, offered',
    yLabel: 'ms',
    yLog: true,
    series: byMode(phases, ({ latency }) => latency?.p99Ms),
  });

/** Over the logarithm of the share that is slower, as HdrHistogram's own plots are. */
function latencyPlot(phases: readonly PhaseResult[]): string {
  const place = (share: number) => -Math.log10(Math.max(1e-4, 1 - share));
  return linePlot({
    title: 'Latency by percentile',
    xLabel: 'percentile',
    yLabel: 'ms',
    yLog: true,
    xTicks: [0, 0.9, 0.99, 0.999, 0.9999].map((share) => [place(share), `${Number((share * 100).toPrecision(6))} %`]),
    series: phases.slice(0, 6).map(({ name, mode, latency }) => ({
      name: `${name} ${mode}`,
      points: (latency?.curve ?? []).filter(([share]) => share <= 0.9999).map(([share, ms]) => [place(share), ms]),
    })),
  });
}

function depthPlot(phases: readonly PhaseResult[]): string {
  const counts: number[] = [];
  for (const phase of phases.filter(({ mode }) => mode === 'adaptive')) {
    for (const [steps, count] of phase.depthHistogram.entries()) counts[steps] = (counts[steps] ?? 0) + count;
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  return barPlot({
    title: 'Tokens by steps, adaptive depth',
    xLabel: 'steps',
    yLabel: '%',
    bars: counts
      .slice(1)
      .map((count, i) => ({ label: String(i + 1), values: [total === 0 ? 0 : (100 * count) / total] })),
    names: ['share of the tokens'],
  });
}

function sharePlot(phases: readonly PhaseResult[]): string {
  const names = [...new Set(phases.flatMap((phase) => Object.keys(phase.realisedShares)))];
  return barPlot({
    title: 'Realised share of the depth bound, by rows',
    xLabel: 'phase',
    yLabel: 'share',
    bars: phases
      .filter(({ mode }) => mode === 'adaptive')
      .map((phase) => ({
        label: short(phase.offeredPerSecond),
        values: names.map((name) => phase.realisedShares[name] ?? 0),
      })),
    names,
  });
}
