/** What `score` prints for people about models with attention spans. */
import type { SpanScoreReply } from '../http/span-schemas.js';
import { bits, excerptColumns } from './score-report.js';
import type { SpanModel } from './score-spans.js';
import { excerpt, grouped, table } from './terminal.js';

/** One row for each text: line number from 1, bytes, bits per byte, perplexity, mean span and the text's beginning. */
export function renderSpanLines(
  { results }: SpanScoreReply,
  texts: readonly { readonly text: string }[],
  columns: number,
): string {
  const rows = results.map((result, i) => [
    String(result.index + 1),
    grouped(result.bytes),
    bits(result.bits_per_byte),
    result.perplexity.toFixed(1),
    result.span.mean.toFixed(1),
    excerpt(texts[i]?.text ?? '', excerptColumns(columns)),
  ]);
  return `${table([['line', 'bytes', 'bits/byte', 'perplexity', 'span', 'text'], ...rows], [0, 1, 2, 3, 4])}\n`;
}

export function renderSpanSummary({ results, usage, timing }: SpanScoreReply, model: SpanModel): string {
  const sum = (of: (result: SpanScoreReply['results'][number]) => number) =>
    results.reduce((total, result) => total + of(result), 0);
  const logprob = sum((result) => result.logprob);
  const bytes = sum((result) => result.bytes);
  const perByte = (nats: number) => bits(bytes === 0 ? null : nats / (bytes * Math.LN2));
  const cost = results.some(({ span }) => span.cost !== undefined) ? sum(({ span }) => span.cost?.logprob ?? 0) : null;
  const heads = model.span.keys.flat().length;
  const meanSpan = sum(({ span, bytes }) => span.mean * bytes) / bytes;
  const percent = (keys: number) =>
    `${grouped(keys)} of ${grouped(usage.keys_full)} (${share(keys / usage.keys_full)})`;
  return table([
    ['model', `${model.id} (${model.precision})`],
    ['texts', grouped(results.length)],
    ['tokens', `${grouped(usage.tokens)} of ${grouped(bytes)} bytes`],
    ['log-probability', `${logprob.toFixed(2)} nats`],
    ['bits per byte', perByte(-logprob)],
    ...(cost === null ? [] : [['cost of the cap', `${cost.toFixed(2)} nats, ${perByte(cost)} bits per byte`]]),
    ['perplexity', Math.exp(-logprob / usage.tokens).toFixed(2)],
    ['mean span', `${meanSpan.toFixed(1)} of ${grouped(model.span.spanMax)} keys, over ${heads} heads`],
    ['keys looked at', percent(usage.keys)],
    ['keys computed', percent(usage.keys_computed)],
    [
      'time',
      `${(timing.compute_ms / 1000).toFixed(2)} s, ${grouped(Math.round((usage.tokens / timing.compute_ms) * 1000))} tokens/s`,
    ],
  ]);
}

function share(value: number): string {
  return `${(100 * value).toFixed(1)} %`;
}
