/** Event -> metric: what the engine reports and how requests end. */
import type { DeviceTelemetry, EngineTelemetry, SpanTelemetry, StageName, StageTelemetry } from '../engine/protocol.js';
import type { ErrorCode } from '../errors.js';
import type { Metrics } from './metrics.js';

/**
 * Cost of a row that only renews its keys and values, in active rows. With width d and a feed-forward of 4d, an active row
 * multiplies by 4 d^2 (query, key, value, output) + 8 d^2 (feed-forward) weights, a renewed one by 2 d^2: 2 / 12. The decoder's
 * active rows also look at the source (query and output, 2 d^2): 2 / 14.
 */
export const RENEWED_ROW_COST: Readonly<Record<StageName, number>> = {
  score: 1 / 6,
  generate: 1 / 6,
  encoder: 1 / 6,
  decoder: 1 / 7,
};

interface AnsweredRequest {
  readonly model: string;
  readonly queueMs: number;
  readonly tokenizeMs: number;
  readonly computeMs: number;
  readonly totalMs: number;
}

/** A scoring request that was answered. */
export interface ScoredRequest extends AnsweredRequest {
  readonly tokens: number;
  /** Tokens by steps; the index is the number of steps. Null for a model of fixed depth. */
  readonly histogram: readonly number[] | null;
}

/** A translation request that was answered. */
export interface TranslatedRequest extends AnsweredRequest {
  readonly sourceTokens: number;
  readonly targetTokens: number;
  /** Of each sentence. */
  readonly finishReasons: readonly ('stop' | 'length' | 'repetition')[];
  /** Positions by steps, of each text. */
  readonly encoderHistograms: readonly (readonly number[])[];
  readonly decoderHistograms: readonly (readonly number[])[];
  /** From the arrival of the request to the first token, and from there to the last. */
  readonly firstTokenMs: number;
  readonly furtherTokensMs: number;
}

/** A completion that was answered. */
export interface CompletedRequest extends AnsweredRequest {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Of each choice. */
  readonly finishReasons: readonly ('stop' | 'length')[];
  /** Scored and generated tokens by steps. Null for a model of fixed depth. */
  readonly histogram: readonly number[] | null;
  /** From the arrival of the request to the first new token; null: it asked for none. */
  readonly firstTokenMs: number | null;
}

export class Observer {
  /** Per stack: steps of the positions that halted, and the rows that were computed, in active rows. */
  readonly #depth = new Map<string, { steps: number; rows: number }>();

  /** Per model: multiplications that its tokens needed, and that were computed. */
  readonly #spanCost = new Map<string, { needed: number; computed: number }>();

  constructor(private readonly metrics: Metrics) {}

  /**
   * @param route pattern of the route, null when no route matched
   * @param key name of the API key, null when there is none
   */
  finished(route: string | null, outcome: 'OK' | ErrorCode, key: string | null = null): void {
    this.metrics.requests.inc({ route: route ?? 'none', outcome });
    if (key !== null) this.metrics.keyRequests.inc({ key, outcome });
  }

  /** A request of quality adaptive, and whether it got fewer steps than it allowed. */
  granted(model: string, lowered: boolean): void {
    this.metrics.qualityRequests.inc({ model, quality: lowered ? 'lowered' : 'full' });
  }

  scored({ tokens, histogram, ...answered }: ScoredRequest): void {
    this.metrics.tokens.inc({ model: answered.model }, tokens);
    if (histogram !== null) this.#steps(answered.model, 'score', [histogram]);
    this.#latency(answered);
  }

  translated({ sourceTokens, targetTokens, ...request }: TranslatedRequest): void {
    const { metrics } = this;
    const { model } = request;
    metrics.sourceTokens.inc({ model }, sourceTokens);
    metrics.generationTokens.inc({ model }, targetTokens);
    for (const finished_reason of request.finishReasons) metrics.sentences.inc({ model, finished_reason });
    this.#steps(model, 'encoder', request.encoderHistograms);
    this.#steps(model, 'decoder', request.decoderHistograms);
    this.#latency(request);
    // A request that held nothing to translate has no first token; one with a single token has no further ones.
    if (request.firstTokenMs > 0) metrics.firstTokenSeconds.observe({ model }, request.firstTokenMs / 1000);
    if (targetTokens > 1) {
      metrics.outputTokenSeconds.observe({ model }, request.furtherTokensMs / 1000 / (targetTokens - 1));
    }
  }

  completed({ promptTokens, completionTokens, histogram, ...request }: CompletedRequest): void {
    const { metrics } = this;
    const { model, firstTokenMs } = request;
    metrics.promptTokens.inc({ model }, promptTokens);
    metrics.generationTokens.inc({ model }, completionTokens);
    for (const finished_reason of request.finishReasons) metrics.choices.inc({ model, finished_reason });
    if (histogram !== null) this.#steps(model, 'score', [histogram]);
    this.#latency(request);
    if (firstTokenMs === null) return;
    metrics.firstTokenSeconds.observe({ model }, firstTokenMs / 1000);
    const further = completionTokens - request.finishReasons.length;
    if (further > 0) {
      metrics.outputTokenSeconds.observe({ model }, Math.max(0, request.totalMs - firstTokenMs) / 1000 / further);
    }
  }

  #steps(model: string, stage: StageName, histograms: readonly (readonly number[])[]): void {
    for (const histogram of histograms) {
      this.metrics.stepsPerToken.add({ model, stage }, histogram.slice(1), weightedSum(histogram));
    }
  }

  #latency({ model, queueMs, tokenizeMs, computeMs, totalMs }: AnsweredRequest): void {
    const { requestSeconds } = this.metrics;
    requestSeconds.observe({ model, phase: 'queue' }, queueMs / 1000);
    requestSeconds.observe({ model, phase: 'tokenize' }, tokenizeMs / 1000);
    requestSeconds.observe({ model, phase: 'compute' }, computeMs / 1000);
    requestSeconds.observe({ model, phase: 'total' }, totalMs / 1000);
  }

  telemetry(report: EngineTelemetry): void {
    const { lanesWaiting, lanesRunning, slotsUsed, slotsTotal, cacheRowsUsed, cacheRowsTotal } = this.metrics;
    lanesWaiting.set(report.lanesWaiting);
    lanesRunning.set(report.lanesRunning);
    slotsUsed.set(report.slotsUsed);
    slotsTotal.set(report.slotsTotal);
    cacheRowsUsed.set(report.cacheRowsUsed);
    cacheRowsTotal.set(report.cacheRowsTotal);
    for (const stage of report.stages) this.#stage(stage);
    if (report.device !== undefined) this.#device(report.device);
  }

  #device({ name: device, usedBytes, totalBytes, busySeconds }: DeviceTelemetry): void {
    this.metrics.deviceMemoryUsed.set({ device }, usedBytes);
    this.metrics.deviceMemory.set({ device }, totalBytes);
    this.metrics.deviceBusySeconds.inc({ device }, busySeconds);
  }

  #stage(report: StageTelemetry): void {
    const { metrics } = this;
    const labels = { model: report.model, stage: report.stage };
    // A stack of a model with attention spans has no depths to tell of, whether it scores or generates.
    const maxSteps = report.haltedAtStep.length - 1;
    const halts = maxSteps > 0;
    const halted = report.haltedAtStep.reduce((sum, count) => sum + count, 0);
    const haltedSteps = weightedSum(report.haltedAtStep);

    metrics.positionSteps.inc(labels, report.activeRows);
    if (halts) {
      metrics.haltingStep.add(labels, report.haltedAtStep.slice(1), haltedSteps);
      metrics.remainder.add(labels, report.remainderTenths, report.remainderSum);
      metrics.positionStepsSaved.inc(labels, halted * maxSteps - haltedSteps);
      metrics.keyRenewals.inc(labels, report.renewedRows);
    }
    metrics.steps.inc(labels, report.steps);
    metrics.computeSeconds.inc(labels, report.computeSeconds);
    metrics.hostSeconds.inc(labels, report.hostSeconds);
    metrics.paddedRows.inc(labels, report.paddedRows);
    metrics.keysUseful.inc(labels, report.keysUseful);
    metrics.keysComputed.inc(labels, report.keysComputed);
    for (const rows of report.rowsPerStep) metrics.activeRows.observe(labels, rows);

    if (report.span !== undefined) this.#span(labels, report.span);
    if (!halts) return;
    const stack = `${report.stage} ${report.model}`;
    const depth = this.#depth.get(stack) ?? { steps: 0, rows: 0 };
    depth.steps += haltedSteps;
    depth.rows += report.activeRows + report.renewedRows * RENEWED_ROW_COST[report.stage];
    this.#depth.set(stack, depth);
    if (depth.rows > 0) metrics.realisedBoundShare.set(labels, realisedBoundShare(depth.steps, depth.rows));
  }

  #span(labels: { readonly model: string; readonly stage: StageName }, span: SpanTelemetry): void {
    const { metrics } = this;
    const { model } = labels;
    metrics.keysFull.inc(labels, span.keysFull);
    metrics.spanKeys.add(labels, span.tokensBySpan, span.spanSum);
    metrics.sessionsOpen.set({ model }, span.sessionsOpen);
    metrics.spanCacheBytesUsed.set({ model }, span.cacheBytesUsed);
    metrics.spanCacheBytesTotal.set({ model }, span.cacheBytesTotal);
    const cost = this.#spanCost.get(model) ?? { needed: 0, computed: 0 };
    cost.needed += span.multiplicationsNeeded;
    cost.computed += span.multiplicationsComputed;
    this.#spanCost.set(model, cost);
    if (cost.computed > 0) metrics.spanBoundShare.set(labels, cost.needed / cost.computed);
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
