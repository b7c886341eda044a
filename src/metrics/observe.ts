/** Event -> metric: what the engine reports and how requests end. */
import type { EngineTelemetry, StageTelemetry } from '../engine/protocol.js';
import type { ErrorCode } from '../errors.js';
import type { Metrics } from './metrics.js';

/**
 * Cost of a row that only renews its keys and values, in active rows. With width d and a feed-forward of 4d, an active row
 * multiplies by 4 d^2 (query, key, value, output) + 8 d^2 (feed-forward) weights, a renewed one by 2 d^2: 2 / 12.
 */
export const RENEWED_ROW_COST = 1 / 6;

/** A scoring request that was answered. */
export interface ScoredRequest {
  readonly model: string;
  readonly tokens: number;
  /** Tokens by steps; the index is the number of steps. */
  readonly histogram: readonly number[];
  readonly queueMs: number;
  readonly tokenizeMs: number;
  readonly computeMs: number;
  readonly totalMs: number;
}

export class Observer {
  /** Per model: steps of the positions that halted, and the rows that were computed, in active rows. */
  readonly #depth = new Map<string, { steps: number; rows: number }>();

  constructor(private readonly metrics: Metrics) {}

  /** @param route pattern of the route, null when no route matched */
  finished(route: string | null, outcome: 'OK' | ErrorCode): void {
    this.metrics.requests.inc({ route: route ?? 'none', outcome });
  }

  scored({ model, tokens, histogram, ...times }: ScoredRequest): void {
    const { requestSeconds, stepsPerToken } = this.metrics;
    this.metrics.tokens.inc({ model }, tokens);
    stepsPerToken.add(model, histogram.slice(1), weightedSum(histogram));
    requestSeconds.observe({ model, stage: 'queue' }, times.queueMs / 1000);
    requestSeconds.observe({ model, stage: 'tokenize' }, times.tokenizeMs / 1000);
    requestSeconds.observe({ model, stage: 'compute' }, times.computeMs / 1000);
    requestSeconds.observe({ model, stage: 'total' }, times.totalMs / 1000);
  }

  telemetry(report: EngineTelemetry): void {
    const { lanesWaiting, lanesRunning, slotsUsed, slotsTotal } = this.metrics;
    lanesWaiting.set(report.lanesWaiting);
    lanesRunning.set(report.lanesRunning);
    slotsUsed.set(report.slotsUsed);
    slotsTotal.set(report.slotsTotal);
    for (const stage of report.stages) this.#stage(stage);
  }

  #stage(report: StageTelemetry): void {
    const { metrics } = this;
    const labels = { model: report.model };
    const maxSteps = report.haltedAtStep.length - 1;
    const halted = report.haltedAtStep.reduce((sum, count) => sum + count, 0);
    const haltedSteps = weightedSum(report.haltedAtStep);

    metrics.haltingStep.add(report.model, report.haltedAtStep.slice(1), haltedSteps);
    metrics.remainder.add(report.model, report.remainderTenths, report.remainderSum);
    metrics.positionSteps.inc(labels, report.activeRows);
    metrics.positionStepsSaved.inc(labels, halted * maxSteps - haltedSteps);
    metrics.keyRenewals.inc(labels, report.renewedRows);
    metrics.steps.inc(labels, report.steps);
    metrics.computeSeconds.inc(labels, report.computeSeconds);
    metrics.hostSeconds.inc(labels, report.hostSeconds);
    metrics.keysUseful.inc(labels, report.keysUseful);
    metrics.keysComputed.inc(labels, report.keysComputed);
    for (const rows of report.rowsPerStep) metrics.activeRows.observe(labels, rows);

    const depth = this.#depth.get(report.model) ?? { steps: 0, rows: 0 };
    depth.steps += haltedSteps;
    depth.rows += report.activeRows + report.renewedRows * RENEWED_ROW_COST;
    this.#depth.set(report.model, depth);
    if (depth.rows > 0) metrics.realisedBoundShare.set(labels, realisedBoundShare(depth.steps, depth.rows));
  }
}

/**
 * (fixed-depth cost / adaptive cost) / (T / mean depth). For P positions of mean depth m the fixed cost is P T rows, so this is
 * (P T / rows) / (T / m) = P m / rows: T cancels, and what is left is the share of the computed rows that had to be computed.
 * Sums run from the start, because positions that are still running have rows but no depth yet.
 */
export function realisedBoundShare(haltedSteps: number, rows: number): number {
  return haltedSteps / rows;
}

/** Sum of index times count. */
function weightedSum(counts: readonly number[]): number {
  return counts.reduce((sum, count, i) => sum + count * i, 0);
}
