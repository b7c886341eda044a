/** The figures of the Live view, from two scrapes of the server's own metrics. */
import { labelValues, moved, quantile, type Scrape, sumOf } from './prometheus.js';

export interface LiveFigures {
  readonly tokensPerSecond: number;
  /** Answered by a model: pages, metrics and lists do not count. */
  readonly requestsPerSecond: number;
  readonly refusedPerSecond: number;
  /** Steps of the positions that halted. NaN, as all that follow, where nothing happened. */
  readonly meanDepth: number;
  readonly realisedShare: number;
  readonly latencyP50Seconds: number;
  readonly latencyP95Seconds: number;
  readonly waiting: number;
  readonly running: number;
  readonly inWork: number;
}

export interface StackFigures {
  readonly model: string;
  readonly stage: string;
  readonly stepsPerSecond: number;
  readonly meanDepth: number;
  /** Keys that a head looks at, of a model with attention spans. */
  readonly meanSpan: number;
  /** Of the depth bound or of the span bound, since the server started. */
  readonly realisedShare: number;
}

/** The renewal of a halted position's key and value costs about a sixth of a row: see README's metrics. */
const RENEWAL_ROWS = 1 / 6;

export function liveFigures(before: Scrape, after: Scrape, seconds: number): LiveFigures {
  const rate = (name: string): number => moved(before, after, name) / seconds;
  const all = rate('ponder_requests_total');
  const fine = moved(before, after, 'ponder_requests_total', { outcome: 'OK' }) / seconds;
  const depths = moved(before, after, 'ponder_halting_step_sum');
  const rows =
    moved(before, after, 'ponder_position_steps_total') +
    moved(before, after, 'ponder_key_renewals_total') * RENEWAL_ROWS;
  const latency = (q: number): number =>
    quantile(before, after, 'ponder_request_duration_seconds', q, { phase: 'total' });
  return {
    tokensPerSecond: rate('ponder_tokens_total') + rate('ponder_generation_tokens_total'),
    requestsPerSecond: moved(before, after, 'ponder_request_duration_seconds_count', { phase: 'total' }) / seconds,
    refusedPerSecond: Math.max(0, all - fine),
    meanDepth: depths / moved(before, after, 'ponder_halting_step_count'),
    realisedShare: depths / rows,
    latencyP50Seconds: latency(0.5),
    latencyP95Seconds: latency(0.95),
    waiting: sumOf(after, 'ponder_lanes_waiting'),
    running: sumOf(after, 'ponder_lanes_running'),
    inWork: sumOf(after, 'ponder_requests_in_work'),
  };
}

/** One for each stack of each model that has done anything. */
export function stackFigures(before: Scrape, after: Scrape, seconds: number): StackFigures[] {
  const stacks: StackFigures[] = [];
  for (const model of labelValues(after, 'ponder_engine_steps_total', 'model')) {
    for (const stage of labelValues(after, 'ponder_engine_steps_total', 'stage')) {
      const labels = { model, stage };
      if (sumOf(after, 'ponder_engine_steps_total', labels) === 0) continue;
      const halted = moved(before, after, 'ponder_halting_step_count', labels);
      stacks.push({
        model,
        stage,
        stepsPerSecond: moved(before, after, 'ponder_engine_steps_total', labels) / seconds,
        meanDepth: moved(before, after, 'ponder_halting_step_sum', labels) / halted,
        meanSpan:
          moved(before, after, 'ponder_span_keys_sum', labels) / moved(before, after, 'ponder_span_keys_count', labels),
        realisedShare:
          sumOf(after, 'ponder_realised_bound_share', labels) ||
          sumOf(after, 'ponder_span_bound_share', labels) ||
          Number.NaN,
      });
    }
  }
  return stacks;
}
