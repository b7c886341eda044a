import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StageTelemetry } from '../../src/engine/protocol.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import { Observer, RENEWED_ROW_COST, realisedBoundShare } from '../../src/metrics/observe.js';
import { stageReport } from './reports.js';

const sources = { requestsInWork: () => 3, engineRestarts: () => 2, engineReady: () => true, backlogSeconds: () => 0 };

function setup() {
  const metrics = createMetrics(sources, { latencyBucketsMs: [0.5, 5], processMetrics: false });
  return { metrics, observer: new Observer(metrics), text: () => metrics.registry.metrics() };
}

/** The value of a series in the text format. */
function valueIn(text: string, series: string): number {
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${series} `));
  assert.ok(line, `${series} in\n${text}`);
  return Number(line.slice(series.length + 1));
}

test('a report of the engine becomes counters, gauges and histograms', async () => {
  const { observer, text } = setup();
  observer.telemetry(stageReport());
  observer.telemetry(stageReport());
  const page = await text();
  const expected: Readonly<Record<string, number>> = {
    'ponder_position_steps_total{model="m",stage="score"}': 40,
    // 8 positions could have taken 4 steps each and took 20 in all; twice.
    'ponder_position_steps_saved_total{model="m",stage="score"}': 2 * (8 * 4 - 20),
    'ponder_key_renewals_total{model="m",stage="score"}': 12,
    'ponder_engine_steps_total{model="m",stage="score"}': 8,
    'ponder_engine_compute_seconds_total{model="m",stage="score"}': 1,
    'ponder_attention_keys_useful_total{model="m",stage="score"}': 200,
    'ponder_attention_keys_computed_total{model="m",stage="score"}': 260,
    'ponder_halting_step_bucket{le="1",model="m",stage="score"}': 4,
    'ponder_halting_step_bucket{le="3",model="m",stage="score"}': 12,
    'ponder_halting_step_bucket{le="16",model="m",stage="score"}': 16,
    'ponder_halting_step_bucket{le="+Inf",model="m",stage="score"}': 16,
    'ponder_halting_step_sum{model="m",stage="score"}': 40,
    'ponder_halting_step_count{model="m",stage="score"}': 16,
    'ponder_remainder_bucket{le="0.1",model="m",stage="score"}': 2,
    'ponder_remainder_bucket{le="0.3",model="m",stage="score"}': 8,
    'ponder_remainder_bucket{le="1",model="m",stage="score"}': 16,
    'ponder_remainder_sum{model="m",stage="score"}': 9.2,
    'ponder_active_rows_per_step_bucket{le="4",model="m",stage="score"}': 4,
    'ponder_active_rows_per_step_count{model="m",stage="score"}': 8,
    ponder_lanes_waiting: 5,
    ponder_lanes_running: 6,
    ponder_slots_used: 7,
    ponder_slots_capacity: 8,
    ponder_cache_rows_used: 9,
    ponder_cache_rows_capacity: 10,
  };
  for (const [series, value] of Object.entries(expected)) assert.equal(valueIn(page, series), value, series);
});

test('the realised share of the bound is (fixed / adaptive) / (T / mean depth), in rows', async () => {
  const { observer, text } = setup();
  observer.telemetry(stageReport());
  const [positions, maxSteps, meanDepth] = [8, 4, 20 / 8];
  const adaptive = 20 + 6 * RENEWED_ROW_COST.score;
  const share = (positions * maxSteps) / adaptive / (maxSteps / meanDepth);
  assert.ok(Math.abs(valueIn(await text(), 'ponder_realised_bound_share{model="m",stage="score"}') - share) < 1e-12);
  assert.ok(Math.abs(realisedBoundShare(20, adaptive) - share) < 1e-12);
});

test('a loop that halts nothing early and wastes nothing realises all of the bound', async () => {
  const { observer, text } = setup();
  observer.telemetry(stageReport({ activeRows: 20, renewedRows: 0 }));
  assert.equal(valueIn(await text(), 'ponder_realised_bound_share{model="m",stage="score"}'), 1);
});

test('a stack of a model with attention spans has no series about depth, whether it scores or generates', async () => {
  const { observer, text } = setup();
  const flat = { haltedAtStep: [], remainderTenths: [], remainderSum: 0, renewedRows: 0 };
  observer.telemetry(stageReport({ ...flat, stage: 'generate' }));
  const page = await text();
  assert.doesNotMatch(page, /^ponder_(realised_bound_share|halting_step\w*|remainder\w*|position_steps_saved\w*)\{/m);
  assert.equal(valueIn(page, 'ponder_position_steps_total{model="m",stage="generate"}'), 20);
});

test('a report without work leaves the share alone', async () => {
  const { observer, text } = setup();
  const idle = { activeRows: 0, renewedRows: 0, rowsPerStep: [], haltedAtStep: [0, 0, 0, 0, 0], remainderSum: 0 };
  observer.telemetry(stageReport({ ...idle, remainderTenths: new Array(10).fill(0) }));
  assert.doesNotMatch(await text(), /ponder_realised_bound_share\{/);
});

test('models deeper than the buckets are counted above them, not lost', async () => {
  const { observer, text } = setup();
  const haltedAtStep = new Array(21).fill(0);
  haltedAtStep[20] = 3;
  observer.telemetry(stageReport({ haltedAtStep }));
  const page = await text();
  assert.equal(valueIn(page, 'ponder_halting_step_bucket{le="16",model="m",stage="score"}'), 0);
  assert.equal(valueIn(page, 'ponder_halting_step_bucket{le="+Inf",model="m",stage="score"}'), 3);
  assert.equal(valueIn(page, 'ponder_halting_step_sum{model="m",stage="score"}'), 60);
});

test('a scored request: tokens, steps per token, and latency by phase in the buckets asked for', async () => {
  const { observer, text } = setup();
  const times = { queueMs: 0.4, tokenizeMs: 0.6, computeMs: 4, totalMs: 6 };
  observer.scored({ model: 'm', tokens: 3, histogram: [0, 1, 2, 0, 0], ...times });
  const page = await text();
  assert.equal(valueIn(page, 'ponder_tokens_total{model="m"}'), 3);
  assert.equal(valueIn(page, 'ponder_steps_per_token_sum{model="m",stage="score"}'), 5);
  assert.equal(valueIn(page, 'ponder_steps_per_token_bucket{le="1",model="m",stage="score"}'), 1);
  const bucket = (phase: string, le: string): number =>
    valueIn(page, `ponder_request_duration_seconds_bucket{le="${le}",model="m",phase="${phase}"}`);
  assert.equal(bucket('queue', '0.0005'), 1);
  assert.equal(bucket('tokenize', '0.0005'), 0);
  assert.equal(bucket('compute', '0.005'), 1);
  assert.equal(bucket('total', '0.005'), 0);
});

test('the stacks of a translation model are told apart, each with its own share of the bound', async () => {
  const { observer, text } = setup();
  const both = ['encoder', 'decoder'].map((stage) => ({ ...stageReport().stages[0], stage }) as StageTelemetry);
  observer.telemetry({ ...stageReport(), stages: both });
  const page = await text();
  for (const stage of ['encoder', 'decoder'] as const) {
    assert.equal(valueIn(page, `ponder_position_steps_total{model="m",stage="${stage}"}`), 20);
    assert.equal(valueIn(page, `ponder_halting_step_count{model="m",stage="${stage}"}`), 8);
    const share = valueIn(page, `ponder_realised_bound_share{model="m",stage="${stage}"}`);
    assert.ok(Math.abs(share - 20 / (20 + 6 * RENEWED_ROW_COST[stage])) < 1e-12);
  }
});

test('a translated request: tokens, sentences by their end, time to the first token and per further token', async () => {
  const { observer, text } = setup();
  const request = {
    model: 'm',
    sourceTokens: 7,
    targetTokens: 5,
    finishReasons: ['stop', 'length', 'stop'] as const,
    encoderHistograms: [[0, 1, 6]],
    decoderHistograms: [
      [0, 2, 0],
      [0, 0, 3],
    ],
    queueMs: 0.4,
    tokenizeMs: 0.6,
    computeMs: 4,
    totalMs: 6,
    firstTokenMs: 2,
    furtherTokensMs: 4,
  };
  observer.translated(request);
  const nothing = { encoderHistograms: [], decoderHistograms: [], finishReasons: [], sourceTokens: 0, targetTokens: 0 };
  observer.translated({ ...request, ...nothing, firstTokenMs: 0 });
  const page = await text();
  const expected: Readonly<Record<string, number>> = {
    'ponder_source_tokens_total{model="m"}': 7,
    'ponder_generation_tokens_total{model="m"}': 5,
    'ponder_sentences_total{model="m",finished_reason="stop"}': 2,
    'ponder_sentences_total{model="m",finished_reason="length"}': 1,
    'ponder_steps_per_token_sum{model="m",stage="encoder"}': 13,
    'ponder_steps_per_token_count{model="m",stage="decoder"}': 5,
    'ponder_time_to_first_token_seconds_sum{model="m"}': 0.002,
    'ponder_time_to_first_token_seconds_count{model="m"}': 1,
    'ponder_time_per_output_token_seconds_sum{model="m"}': 0.001,
    'ponder_time_per_output_token_seconds_count{model="m"}': 1,
    'ponder_request_duration_seconds_count{model="m",phase="total"}': 2,
  };
  for (const [series, value] of Object.entries(expected)) assert.equal(valueIn(page, series), value, series);
});

test('sizes are pulled at each scrape', async () => {
  const page = await setup().text();
  assert.equal(valueIn(page, 'ponder_requests_in_work'), 3);
  assert.equal(valueIn(page, 'ponder_engine_restarts_total'), 2);
  assert.equal(valueIn(page, 'ponder_engine_ready'), 1);
});

test('names and labels follow the conventions', () => {
  const { metrics } = setup();
  const declared = metrics.registry.getMetricsAsArray() as unknown as {
    name: string;
    type: string;
    labelNames: string[];
  }[];
  for (const { name, type, labelNames } of declared) {
    assert.match(name, /^ponder_[a-z_]+$/);
    assert.equal(name.endsWith('_total') && !/_(slots|rows|bytes)_total$/.test(name), type === 'counter', name);
    const known = ['model', 'route', 'outcome', 'stage', 'phase', 'finished_reason', 'quality', 'key', 'device'];
    for (const label of labelNames) assert.ok(known.includes(label), `${name} ${label}`);
  }
});

test('two registries live side by side', async () => {
  const [first, second] = [setup(), setup()];
  first.observer.finished('/v1/score', 'OK');
  assert.match(await first.text(), /outcome="OK"\} 1/);
  assert.doesNotMatch(await second.text(), /outcome="OK"/);
});

test('a GPU: its memory as it was last, the time it was busy summed up; without one there is no series', async () => {
  const { observer, text } = setup();
  observer.telemetry(stageReport());
  assert.doesNotMatch(await text(), /ponder_device_\w+\{/);
  const device = { name: 'cuda:0', usedBytes: 100, totalBytes: 800, busySeconds: 0.25 };
  observer.telemetry({ ...stageReport(), device });
  observer.telemetry({ ...stageReport(), device: { ...device, usedBytes: 120, busySeconds: 0.5 } });
  const page = await text();
  assert.equal(valueIn(page, 'ponder_device_memory_used_bytes{device="cuda:0"}'), 120);
  assert.equal(valueIn(page, 'ponder_device_memory_bytes{device="cuda:0"}'), 800);
  assert.equal(valueIn(page, 'ponder_device_busy_seconds_total{device="cuda:0"}'), 0.75);
});
