/** What `score` prints for people: a line for every text, and the sums over all of them. */
import type { ScoreReply, ScoreResult } from '../http/schemas.js';
import type { ScoredInput } from '../http/score-reply.js';
import type { ModelDescription } from '../models/description.js';
import { excerpt, grouped, table } from './terminal.js';

const BAR_COLUMNS = 30;
const EXCERPT_COLUMNS_MIN = 20;
/** What the columns before the text take, about. */
const NUMBERS_COLUMNS = 50;

/** One row for each text: line number from 1, tokens, bits per byte, perplexity, mean depth and the text's beginning. */
export function renderLines(
  reply: ScoreReply,
  inputs: readonly ScoredInput[],
  texts: readonly { readonly text: string }[],
  columns: number,
): string {
  const textColumns = excerptColumns(columns);
  const rows = reply.results.map((result, i) => [
    String(result.index + 1),
    grouped(inputs[i]?.encoded.ids.length ?? 0),
    bits(result.bits_per_byte),
    result.perplexity.toFixed(1),
    result.ponder.mean.toFixed(2),
    excerpt(texts[i]?.text ?? '', textColumns),
  ]);
  return `${table([['line', 'tokens', 'bits/byte', 'perplexity', 'depth', 'text'], ...rows], [0, 1, 2, 3, 4])}\n`;
}

/** What is left of a terminal's columns for the text of a line. */
export function excerptColumns(columns: number): number {
  return Math.max(EXCERPT_COLUMNS_MIN, columns - NUMBERS_COLUMNS);
}

/** The sums over all texts, with the depths as a bar chart. */
export function renderSummary({ results, usage, timing }: ScoreReply, model: ModelDescription): string {
  const sum = (of: (result: ScoreResult) => number): number => results.reduce((total, result) => total + of(result), 0);
  const logprob = sum((result) => result.logprob);
  const bytes = sum((result) => result.bytes);
  const histogram = Array.from({ length: model.maxSteps + 1 }, (_, step) => sum((r) => r.ponder.histogram[step] ?? 0));
  const meanDepth = histogram.reduce((total, tokens, step) => total + tokens * step, 0) / usage.tokens;
  const share = ((100 * usage.position_steps) / usage.position_steps_fixed).toFixed(0);
  const facts = table([
    ['model', `${model.id} (${model.precision})`],
    ['texts', `${grouped(results.length)} in ${grouped(sum((result) => result.windows))} windows`],
    ['tokens', `${grouped(usage.tokens)} of ${grouped(bytes)} bytes`],
    ['log-probability', `${logprob.toFixed(2)} nats`],
    ['bits per byte', bits(bytes === 0 ? null : -logprob / (bytes * Math.LN2))],
    ['perplexity', Math.exp(-logprob / usage.tokens).toFixed(2)],
    ['mean depth', `${meanDepth.toFixed(2)} of ${model.maxSteps} steps`],
    ['steps computed', `${grouped(usage.position_steps)} of ${grouped(usage.position_steps_fixed)} (${share} %)`],
    [
      'time',
      `${(timing.compute_ms / 1000).toFixed(2)} s, ${grouped(Math.round((usage.tokens / timing.compute_ms) * 1000))} tokens/s`,
    ],
  ]);
  return `${facts}\n${depthChart(histogram)}`;
}

function depthChart(histogram: readonly number[]): string {
  const most = Math.max(...histogram);
  const rows = histogram.map((tokens, step) => [
    String(step),
    grouped(tokens),
    '█'.repeat(Math.ceil((tokens / most) * BAR_COLUMNS)),
  ]);
  return table([['steps', 'tokens', ''], ...rows.slice(1)], [0, 1]);
}

export function bits(value: number | null): string {
  return value === null ? '-' : value.toFixed(4);
}
