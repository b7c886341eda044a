/**
 * THE metrics table: every series of the server, declared once with its unit and buckets. `observe.ts` turns events into
 * values; sizes are pulled when a scraper asks. Names: prefix `ponder_`, `_total` on counters, `_seconds` for durations.
 * Labels are model, route, outcome and stage, all from closed sets: nothing that a client sends becomes a label.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { TalliedHistogram } from './tallied-histogram.js';

/** What is pulled at a scrape. */
export interface MetricSources {
  requestsInWork(): number;
  engineRestarts(): number;
  engineReady(): boolean;
}

export interface MetricOptions {
  readonly latencyBucketsMs: readonly number[];
  /** Node's own metrics (memory, CPU, event loop, garbage collection); they observe the whole process until it ends. */
  readonly processMetrics: boolean;
}

/** Steps 1 ... 16; deeper ones count as +Inf. */
const STEP_BOUNDS = Array.from({ length: 16 }, (_, i) => i + 1);
const TENTH_BOUNDS = Array.from({ length: 10 }, (_, i) => (i + 1) / 10);
const ROW_BOUNDS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/**
 * Sampling interval of the event-loop delay. Node's figure includes the interval itself, so this is also what an idle loop
 * shows; with prom-client's default of 10 ms no server could ever show less than 10 ms.
 */
const EVENT_LOOP_SAMPLE_MS = 2;

export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics(sources: MetricSources, options: MetricOptions) {
  const registry = new Registry();
  const registers = [registry];
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[]): Counter<L> =>
    new Counter({ name, help, labelNames, registers });
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[]): Gauge<L> =>
    new Gauge({ name, help, labelNames, registers });
  const pulled = (name: string, help: string, read: () => number): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  const tallied = (name: string, help: string, bounds: readonly number[]): TalliedHistogram =>
    new TalliedHistogram(name, help, bounds, registry);

  const metrics = {
    // Requests
    requests: counter(
      'ponder_requests_total',
      'Requests by route and outcome: OK or an error code. Route "none": no such path, or not HTTP.',
      ['route', 'outcome'],
    ),
    requestsInWork: pulled('ponder_requests_in_work', 'Scoring requests past the door.', sources.requestsInWork),
    requestSeconds: new Histogram({
      name: 'ponder_request_duration_seconds',
      help: 'Latency of scored requests by stage: tokenize, queue (until the first step), compute, total.',
      labelNames: ['model', 'stage'] as const,
      buckets: options.latencyBucketsMs.map((ms) => ms / 1000),
      registers,
    }),
    tokens: counter('ponder_tokens_total', 'Tokens scored in replies.', ['model']),

    // Depth
    stepsPerToken: tallied('ponder_steps_per_token', 'Ponder steps of the tokens in replies.', STEP_BOUNDS),
    haltingStep: tallied(
      'ponder_halting_step',
      'Step at which positions halted, context of windows included.',
      STEP_BOUNDS,
    ),
    remainder: tallied('ponder_remainder', 'Remainder of halted positions.', TENTH_BOUNDS),
    positionSteps: counter('ponder_position_steps_total', 'Steps computed, summed over positions.', ['model']),
    positionStepsSaved: counter(
      'ponder_position_steps_saved_total',
      "Steps that halted positions did not take, up to the model's maximum.",
      ['model'],
    ),
    keyRenewals: counter('ponder_key_renewals_total', 'Halted positions whose keys and values were renewed.', [
      'model',
    ]),
    realisedBoundShare: gauge(
      'ponder_realised_bound_share',
      'Realised share of the depth bound since start: (fixed cost / adaptive cost) / (maximum / mean depth), by rows.',
      ['model'],
    ),

    // Engine
    steps: counter('ponder_engine_steps_total', 'Steps of the depth loop.', ['model']),
    computeSeconds: counter('ponder_engine_compute_seconds_total', 'Time in the graphs.', ['model']),
    hostSeconds: counter('ponder_engine_host_seconds_total', 'Time between the graphs: scheduling, settling.', [
      'model',
    ]),
    activeRows: new Histogram({
      name: 'ponder_active_rows_per_step',
      help: 'Rows computed in full in one step.',
      labelNames: ['model'] as const,
      buckets: ROW_BOUNDS,
      registers,
    }),
    keysUseful: counter('ponder_attention_keys_useful_total', 'Keys that attention was asked for.', ['model']),
    keysComputed: counter(
      'ponder_attention_keys_computed_total',
      'Keys that attention computed; what exceeds the useful ones is padding.',
      ['model'],
    ),
    lanesWaiting: gauge('ponder_lanes_waiting', 'Sequences waiting for their first step.', []),
    lanesRunning: gauge('ponder_lanes_running', 'Sequences in the depth loop.', []),
    slotsUsed: gauge('ponder_slots_used', 'Positions whose state is held.', []),
    slotsTotal: gauge('ponder_slots_total', 'Positions whose state can be held.', []),
    engineReady: pulled('ponder_engine_ready', '1 when the engine takes requests.', () =>
      sources.engineReady() ? 1 : 0,
    ),
    engineRestarts: new Counter({
      name: 'ponder_engine_restarts_total',
      help: 'Times the engine worker was restarted after it died.',
      registers,
      collect() {
        this.reset();
        this.inc(sources.engineRestarts());
      },
    }),
  };

  if (options.processMetrics) {
    collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: EVENT_LOOP_SAMPLE_MS });
  }
  return { registry, ...metrics };
}
