/** Throughput against the number of processes (`--workers n`), each round with every n; the cores are dealt out among them. */
import { availableParallelism } from 'node:os';
import { median } from '../../src/cli/bench-arithmetic.js';
import { Random } from '../../test/seed.js';
import { OpenClient } from '../open-client.js';
import { scrape, startServer } from '../server.js';
import { WORKLOADS } from '../workloads.js';
import { trialContext } from './context.js';
import type { Trial } from './trial.js';

const IN_FLIGHT = 32;

export const workers: Trial = {
  name: 'workers',
  help: 'Tokens a second over the number of processes, as a ratio to one process in the same round.',
  times: 3,
  seconds: 10,
  run: async ({ times, seconds, seed, serverOptions }, stop, say) => {
    const counts = [1, 2, 4, 8].filter((count) => count <= Math.max(2, availableParallelism()));
    const rates: number[][] = counts.map(() => []);
    const context = await trialContext(serverOptions);
    for (let round = 1; round <= times && !stop.aborted; round++) {
      for (const [i, count] of counts.entries()) {
        const server = await startServer([...serverOptions, `--workers=${count}`], count);
        const client = new OpenClient(server.url, false);
        try {
          const random = new Random(seed + round);
          const draw = () => WORKLOADS.mixed(random, context);
          await client.saturate(draw, IN_FLIGHT, 2, stop);
          const before = await scrape(server.url);
          const startedAtMs = performance.now();
          await client.saturate(draw, IN_FLIGHT, seconds, stop);
          const elapsed = (performance.now() - startedAtMs) / 1000;
          const tokens = (await scrape(server.url)).sum('ponder_tokens_total') - before.sum('ponder_tokens_total');
          rates[i]?.push(tokens / elapsed);
          say(`round ${round} of ${times}, ${count} processes: ${(tokens / elapsed).toFixed(0)} tokens/s\n`);
        } finally {
          client.close();
          await server.stop();
        }
      }
    }
    const ratios = rates.map((own) => median(own.map((rate, round) => rate / (rates[0]?.[round] as number))));
    return {
      rows: counts.map((count, i) => [
        `${count} processes`,
        `${median(rates[i] ?? []).toFixed(0)} tokens/s, ${ratios[i]?.toFixed(2)} times one`,
      ]),
      result: { counts, rates, ratios },
      problems: [],
    };
  },
};
