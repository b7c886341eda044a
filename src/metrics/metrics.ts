/**
 * THE metrics table: every series of the server, declared once with its unit and buckets. `observe.ts` turns events into
 * values; sizes are pulled when a scraper asks. Names: prefix `ponder_`, `_total` on counters, `_seconds` for durations.
 * Labels are model, stage (score, generate, encoder, decoder), phase (of a request), route, outcome, quality and finished_reason, all from closed
 * sets, device (cuda:N), and key, the name of an API key as its file has it: nothing that a client sends becomes a label.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { SPAN_BOUNDS } from '../engine/protocol.js';
import { TalliedHistogram } from './tallied-histogram.js';

/** What is pulled at a scrape. */
export interface MetricSources {
  requestsInWork(): number;
  engineRestarts(): number;
  engineReady(): boolean;
  backlogSeconds(): number;
}

export interface MetricOptions {
  readonly latencyBucketsMs: readonly number[];
  /** Node's own metrics (memory, CPU, event loop, garbage collection); they observe the whole process until it ends. */
  readonly processMetrics: boolean;
}

/** Each stack of a model has its own series: the one that scores, the one that generates, the encoder, the decoder. */
const STACK = ['model', 'stage'] as const;

const DEVICE = ['device'] as const;

/** Steps 1 ... 16; deeper ones count as +Inf. */
const STEP_BOUNDS = Array.from({ length: 16 }, (_, i) => i + 1);
const TENTH_BOUNDS = Array.from({ length: 10 }, (_, i) => (i + 1) / 10);
const ROW_BOUNDS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/**
 * Sampling interval of the event-loop delay. Node's figure includes the interval itself, so this is also what an idle loop
 * shows; with prom-client's default of 10 ms no server could ever show less than 10 ms.
 */
const EVENT_LOOP_SAMPLE_MS = 2;

/** How the gauges of several processes become one. */
type Aggregator = 'sum' | 'average' | 'min';

export type Metrics = ReturnType<typeof createMetrics>;

export function createMetrics(sources: MetricSources, options: MetricOptions) {
  const registry = new Registry();
  const registers = [registry];
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[]): Counter<L> =>
    new Counter({ name, help, labelNames, registers });
  const gauge = <L extends string>(
    name: string,
    help: string,
    labelNames: readonly L[],
    aggregator: Aggregator = 'sum',
  ): Gauge<L> => new Gauge({ name, help, labelNames, registers, aggregator });
  const pulled = (name: string, help: string, read: () => number, aggregator: Aggregator = 'sum'): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      aggregator,
      collect() {
        this.set(read());
      },
    });
  const latencyBuckets = options.latencyBucketsMs.map((ms) => ms / 1000);
  const tallied = (name: string, help: string, bounds: readonly number[]): TalliedHistogram =>
    new TalliedHistogram(name, help, bounds, registry);

  const metrics = {
    // Requests
    requests: counter(
      'ponder_requests_total',
      'Requests by route and outcome: OK or an error code. Route "none": no such path, a method that it has not, or not HTTP.',
      ['route', 'outcome'],
    ),
    keyRequests: counter('ponder_key_requests_total', 'Requests with a valid API key, by its name and their outcome.', [
      'key',
      'outcome',
    ]),
    requestsInWork: pulled('ponder_requests_in_work', 'Requests past the door.', sources.requestsInWork),
    requestSeconds: new Histogram({
      name: 'ponder_request_duration_seconds',
      help: 'Latency of answered requests by phase: tokenize, queue (until the first step), compute, total.',
      labelNames: ['model', 'phase'] as const,
      buckets: latencyBuckets,
      registers,
    }),
    qualityRequests: counter(
      'ponder_quality_requests_total',
      'Requests of quality adaptive, by whether they got all steps they allowed (full) or fewer (lowered).',
      ['model', 'quality'],
    ),
    backlogSeconds: pulled(
      'ponder_backlog_seconds',
      'Predicted engine time of all requests that are in: how long a new one would wait. Scale on this.',
      sources.backlogSeconds,
      'average',
    ),
    tokens: counter('ponder_tokens_total', 'Tokens scored in replies.', ['model']),

    // Translation and completion
    firstTokenSeconds: new Histogram({
      name: 'ponder_time_to_first_token_seconds',
      help: 'From the arrival of a translation or completion until its first new token was decided.',
      labelNames: ['model'] as const,
      buckets: latencyBuckets,
      registers,
    }),
    outputTokenSeconds: new Histogram({
      name: 'ponder_time_per_output_token_seconds',
      help: 'Time of a translation or completion after its first new token, per further token of its reply.',
      labelNames: ['model'] as const,
      buckets: latencyBuckets,
      registers,
    }),
    sourceTokens: counter('ponder_source_tokens_total', 'Tokens of translated text.', ['model']),
    promptTokens: counter('ponder_prompt_tokens_total', 'Tokens of the prompts of completions.', ['model']),
    generationTokens: counter(
      'ponder_generation_tokens_total',
      'New tokens in replies: of translations, of completions.',
      ['model'],
    ),
    choices: counter('ponder_completion_choices_total', 'Choices of completions, by why they ended.', [
      'model',
      'finished_reason',
    ]),
    sentences: counter('ponder_sentences_total', 'Sentences translated, by why their translation ended.', [
      'model',
      'finished_reason',
    ]),

    // Depth
    stepsPerToken: tallied('ponder_steps_per_token', 'Ponder steps of the tokens in replies.', STEP_BOUNDS),
    haltingStep: tallied(
      'ponder_halting_step',
      'Step at which positions halted, context of windows included.',
      STEP_BOUNDS,
    ),
    remainder: tallied('ponder_remainder', 'Remainder of halted positions.', TENTH_BOUNDS),
    positionSteps: counter('ponder_position_steps_total', 'Steps computed, summed over positions.', STACK),
    positionStepsSaved: counter(
      'ponder_position_steps_saved_total',
      "Steps that halted positions did not take, up to the model's maximum.",
      STACK,
    ),
    keyRenewals: counter('ponder_key_renewals_total', 'Halted positions whose keys and values were renewed.', STACK),
    realisedBoundShare: gauge(
      'ponder_realised_bound_share',
      'Realised share of the depth bound since start: (fixed cost / adaptive cost) / (maximum / mean depth), by rows.',
      STACK,
      'average',
    ),

    // Engine
    steps: counter('ponder_engine_steps_total', 'Steps of the depth loop.', STACK),
    computeSeconds: counter('ponder_engine_compute_seconds_total', 'Time in the graphs.', STACK),
    hostSeconds: counter('ponder_engine_host_seconds_total', 'Time between the graphs: scheduling, settling.', STACK),
    activeRows: new Histogram({
      name: 'ponder_active_rows_per_step',
      help: 'Rows computed in full in one step.',
      labelNames: STACK,
      buckets: ROW_BOUNDS,
      registers,
    }),
    paddedRows: counter(
      'ponder_rows_padded_total',
      'Rows computed on a GPU only because launches are captured for fixed row counts.',
      STACK,
    ),
    keysUseful: counter(
      'ponder_attention_keys_useful_total',
      'Keys that attention was asked for; on a GPU those of beams alone.',
      STACK,
    ),
    keysComputed: counter(
      'ponder_attention_keys_computed_total',
      'Keys that attention computed; what exceeds the useful ones is padding.',
      STACK,
    ),
    // Attention spans
    keysFull: counter(
      'ponder_attention_keys_full_total',
      'Keys that heads of full span would have looked at, for models with attention spans.',
      STACK,
    ),
    spanKeys: tallied('ponder_span_keys', 'Mean span of the heads at each token scored, in keys.', SPAN_BOUNDS),
    spanBoundShare: gauge(
      'ponder_span_bound_share',
      'Realised share of the span bound since start: multiplications that the tokens needed over those computed.',
      STACK,
      'average',
    ),
    spanCacheBytesUsed: gauge(
      'ponder_span_cache_bytes_used',
      'Bytes of keys and values that running texts and open sessions hold.',
      ['model'],
    ),
    spanCacheBytesTotal: gauge('ponder_span_cache_bytes_capacity', 'Bytes of keys and values that can be held.', [
      'model',
    ]),
    sessionsOpen: gauge('ponder_sessions_open', 'Sessions that are open.', ['model']),

    // GPU. Several processes may share one: what each says of its memory is the same, what each kept it busy adds up.
    deviceMemoryUsed: gauge(
      'ponder_device_memory_used_bytes',
      'Memory of the GPU that is in use, by whomever.',
      DEVICE,
      'average',
    ),
    deviceMemory: gauge('ponder_device_memory_bytes', 'Memory of the GPU.', DEVICE, 'average'),
    deviceBusySeconds: counter(
      'ponder_device_busy_seconds_total',
      'Time that the GPU ran graphs; its rate is the busy share.',
      DEVICE,
    ),

    lanesWaiting: gauge('ponder_lanes_waiting', 'Sequences waiting for their first step.', []),
    lanesRunning: gauge('ponder_lanes_running', 'Sequences in the depth loop.', []),
    slotsUsed: gauge('ponder_slots_used', 'Positions whose state is held.', []),
    slotsTotal: gauge('ponder_slots_capacity', 'Positions whose state can be held.', []),
    cacheRowsUsed: gauge(
      'ponder_cache_rows_used',
      "Rows of the decoders' key and value caches that are held; a greedy translation on a GPU holds all it can need.",
      [],
    ),
    cacheRowsTotal: gauge('ponder_cache_rows_capacity', "Rows of the decoders' key and value caches.", []),
    engineReady: pulled(
      'ponder_engine_ready',
      '1 when the engine takes requests.',
      () => (sources.engineReady() ? 1 : 0),
      'min',
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
    // Gauges whose names say that they are counters; nodejs_active_resources and its like tell the same.
    for (const kind of ['resources', 'handles', 'requests']) registry.removeSingleMetric(`nodejs_active_${kind}_total`);
  }
  return { registry, ...metrics };
}
