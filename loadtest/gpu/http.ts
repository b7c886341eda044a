/**
 * HTTP on top of the engine on a GPU: autocannon's connections post windows of token ids, many a request and one, with the tokens of the reply left
 * out and with them. Run on the GPU machine beside measure.js; its share is of that rate.
 *
 * usage: node dist/loadtest/gpu/http.js WINDOWS.json OUT.json [server options]
 */
import { readFileSync, writeFileSync } from 'node:fs';
import autocannon from 'autocannon';
import { scrape, startServer } from '../server.js';

const CONNECTIONS = 256;
const SECONDS = 6;
/** Threads of the load generator: one can't keep the server busy. */
const WORKERS = 4;
/** Processes of the server, on the same GPU: what one main thread can parse and answer is less than a GPU can score. */
const PROCESSES = [1, 4];

interface Case {
  readonly windows: number;
  readonly tokens: boolean;
}

const CASES: readonly Case[] = [
  { windows: 32, tokens: false },
  { windows: 8, tokens: false },
  { windows: 1, tokens: false },
  { windows: 8, tokens: true },
];

async function measure(url: string, processes: number, windows: readonly number[][], { windows: each, tokens }: Case) {
  const requests = Array.from({ length: Math.floor(windows.length / each) }, (_, i) => ({
    method: 'POST' as const,
    path: '/v1/score',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: 'ut-lm-en',
      input: windows.slice(i * each, (i + 1) * each),
      return_tokens: tokens,
    }),
  }));
  const before = await scrape(url);
  const began = process.hrtime.bigint();
  const running = autocannon({
    url,
    connections: CONNECTIONS,
    duration: SECONDS,
    workers: WORKERS,
    requests,
    timeout: 60,
  });
  // While the load runs: the lag that the server tells is that of its last second or so.
  await new Promise((resolve) => setTimeout(resolve, (SECONDS - 1) * 1000));
  const during = await scrape(url);
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const result = await running;
  return {
    processes,
    connections: CONNECTIONS,
    windowsPerRequest: each,
    tokensInReply: tokens,
    requestsPerSecond: result.requests.average,
    tokensPerSecond: (during.sum('ponder_tokens_total') - before.sum('ponder_tokens_total')) / seconds,
    latencyMsP50: result.latency.p50,
    latencyMsP99: result.latency.p99,
    eventLoopLagP99Ms: 1000 * during.sum('nodejs_eventloop_lag_p99_seconds'),
    failed: result.non2xx + result.errors + result.timeouts,
  };
}

async function main([inputs, out, ...options]: readonly string[]): Promise<void> {
  if (inputs === undefined || out === undefined)
    throw new Error('usage: http.js WINDOWS.json OUT.json [server options]');
  const windows = JSON.parse(readFileSync(inputs, 'utf8')) as number[][];
  const limits = ['--requests-max', '1024', '--queue-lanes-max', '100000', '--queue-tokens-max', '100000000'];
  const results = [];
  for (const processes of PROCESSES) {
    const server = await startServer([...limits, '--workers', String(processes), ...options], processes);
    try {
      for (const one of CASES) {
        const measured = await measure(server.url, processes, windows, one);
        console.log(JSON.stringify(measured));
        results.push(measured);
      }
    } finally {
      await server.stop();
    }
  }
  writeFileSync(out, JSON.stringify({ options, results }, null, 1));
}

await main(process.argv.slice(2));
