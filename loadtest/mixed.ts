/**
 * `npm run loadtest -- mixed`: scoring and translation beside each other. Does either starve? The latency of a score of 20 tokens
 * alone on the server is compared with its latency while the other connections translate without a pause.
 */
import { performance } from 'node:perf_hooks';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  parseFlags,
  runCommand,
  UsageError,
  write,
} from '../src/cli/command.js';
import { readText } from '../src/cli/read-text.js';
import { startServer } from './server.js';

const FLAGS = {
  connections: 'value',
  scorers: 'value',
  seconds: 'value',
  source: 'value',
  json: 'switch',
  help: 'switch',
} as const;

export const USAGE = `Usage: npm run loadtest -- mixed [options]

  --connections N    connections in all (default: 64)
  --scorers N        how many of them score, a text of 20 tokens after the other; the rest translate (default: 4)
  --seconds N        how long all of them run (default: 20)
  --source FILE      sentences to translate, one a line (default: five of our own)
  --json             print the result as JSON

Every option of the server works too. Exits with 1 when a request fails or the p99 of a score is not under 5 times its p99 alone.
`;

const TEXT = 'The committee met in the old town hall on Tuesday and agreed to publish its report before the summer.';
const SENTENCES = [
  'The children are playing in the garden behind the house.',
  'A man in an orange hat is looking at something on the other side of the street.',
  'Please enter your password and press the button to continue.',
  'We do not know yet when the next train to Berlin will leave the station.',
  'She has been working on this book for more than three years.',
];
const SOLO_REQUESTS = 200;
const WARM_REQUESTS = 20;
const FACTOR_MAX = 5;

interface Tally {
  readonly latenciesMs: number[];
  failures: number;
}

export function run(argv: string[], io: CommandIo, stop: AbortSignal = new AbortController().signal): Promise<number> {
  return runCommand('loadtest mixed', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected argument ${positionals[0]}`);
    const connections = countFlag('connections', values.connections) ?? 64;
    const scorers = countFlag('scorers', values.scorers) ?? 4;
    if (scorers >= connections) throw new UsageError('--scorers must be below --connections: the rest translate');
    const seconds = countFlag('seconds', values.seconds) ?? 20;
    const lines = values.source === undefined ? SENTENCES : (await readText(values.source, io.stdin)).split('\n');
    const sentences = lines.filter((line) => line.trim() !== '');
    if (sentences.length === 0) throw new CommandError(`${values.source} holds no sentence`);

    const server = await startServer(serverOptions);
    try {
      const score = () => post(server.url, '/v1/score', { input: TEXT, return_tokens: false });
      const translate = (n: number) => {
        const input = sentences[n % sentences.length] as string;
        return post(server.url, '/v1/translate', { input, return_tokens: false });
      };
      const solo: Tally = { latenciesMs: [], failures: 0 };
      for (let i = 0; i < WARM_REQUESTS; i++) await Promise.all([score(), translate(i)]);
      for (let i = 0; i < SOLO_REQUESTS && !stop.aborted; i++) await timed(score, solo);

      const scored: Tally = { latenciesMs: [], failures: 0 };
      const translated: Tally = { latenciesMs: [], failures: 0 };
      const endMs = performance.now() + seconds * 1000;
      let next = 0;
      const client = async (isScorer: boolean) => {
        while (performance.now() < endMs && !stop.aborted) {
          if (isScorer) await timed(score, scored);
          else await timed(() => translate(next++), translated);
        }
      };
      await Promise.all(Array.from({ length: connections }, (_, i) => client(i < scorers)));

      const result = {
        connections,
        scorers,
        seconds,
        soloMs: { p50: percentile(solo, 0.5), p99: percentile(solo, 0.99) },
        scoreMs: { p50: percentile(scored, 0.5), p99: percentile(scored, 0.99), requests: scored.latenciesMs.length },
        translateMs: {
          p50: percentile(translated, 0.5),
          p99: percentile(translated, 0.99),
          requests: translated.latenciesMs.length,
        },
        factor: percentile(scored, 0.99) / percentile(solo, 0.99),
        failures: solo.failures + scored.failures + translated.failures,
      };
      await write(io.stdout, values.json !== undefined ? `${JSON.stringify(result, null, 2)}\n` : render(result));
      return result.failures === 0 && result.factor < FACTOR_MAX ? EXIT.ok : EXIT.failed;
    } finally {
      await server.stop();
    }
  });
}

async function timed(request: () => Promise<boolean>, tally: Tally): Promise<void> {
  const startMs = performance.now();
  if (!(await request())) tally.failures += 1;
  tally.latenciesMs.push(performance.now() - startMs);
}

async function post(url: string, path: string, body: unknown): Promise<boolean> {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  await response.arrayBuffer();
  return response.ok;
}

function percentile({ latenciesMs }: Tally, share: number): number {
  const sorted = [...latenciesMs].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

interface Mixed {
  readonly connections: number;
  readonly scorers: number;
  readonly seconds: number;
  readonly soloMs: { readonly p50: number; readonly p99: number };
  readonly scoreMs: { readonly p50: number; readonly p99: number; readonly requests: number };
  readonly translateMs: { readonly p50: number; readonly p99: number; readonly requests: number };
  readonly factor: number;
  readonly failures: number;
}

function render({ connections, scorers, seconds, soloMs, scoreMs, translateMs, factor, failures }: Mixed): string {
  const ms = (value: number) => `${value.toFixed(1)} ms`;
  return [
    `${connections} connections: ${scorers} score 20 tokens, ${connections - scorers} translate; ${seconds} s`,
    `score alone, p50, p99            ${ms(soloMs.p50)}, ${ms(soloMs.p99)}`,
    `score in company, p50, p99       ${ms(scoreMs.p50)}, ${ms(scoreMs.p99)}   ${(scoreMs.requests / seconds).toFixed(1)} a second`,
    `translate in company, p50, p99   ${ms(translateMs.p50)}, ${ms(translateMs.p99)}   ${(translateMs.requests / seconds).toFixed(1)} a second`,
    `p99 in company over p99 alone    ${factor.toFixed(2)}   wanted: under ${FACTOR_MAX}`,
    `requests that failed             ${failures}`,
    '',
  ].join('\n');
}
