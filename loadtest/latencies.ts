/** Latencies in a histogram of three significant digits (HdrHistogram): its size does not depend on how many there are. */
import { build, type Histogram, initWebAssembly } from 'hdr-histogram-js';

// Recorded in units of 10 us, up to an hour.
const UNITS_PER_MS = 100;
const HIGHEST = 3_600_000 * UNITS_PER_MS;

await initWebAssembly();

export interface Percentiles {
  readonly count: number;
  readonly meanMs: number;
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
  /** [share, ms] along the distribution, for a plot. */
  readonly curve: readonly (readonly [number, number])[];
}

const CURVE_SHARES = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1];

/** null when there are none. */
export function percentilesOf(latenciesMs: readonly number[]): Percentiles | null {
  if (latenciesMs.length === 0) return null;
  const histogram: Histogram = build({
    highestTrackableValue: HIGHEST,
    numberOfSignificantValueDigits: 3,
    useWebAssembly: true,
  });
  try {
    for (const ms of latenciesMs) histogram.recordValue(Math.min(HIGHEST, Math.max(0, Math.round(ms * UNITS_PER_MS))));
    const at = (share: number) => histogram.getValueAtPercentile(share * 100) / UNITS_PER_MS;
    return {
      count: latenciesMs.length,
      meanMs: histogram.mean / UNITS_PER_MS,
      p50Ms: at(0.5),
      p90Ms: at(0.9),
      p99Ms: at(0.99),
      p999Ms: at(0.999),
      maxMs: histogram.maxValue / UNITS_PER_MS,
      curve: CURVE_SHARES.map((share) => [share, at(share)] as const),
    };
  } finally {
    histogram.destroy();
  }
}
