/** Mixed load for long: resident memory after the warm-up and the p99 must stay where they were. */
import { monotonicMs } from '../../src/clock.js';
import { Random } from '../../test/seed.js';
import { poisson } from '../arrivals.js';
import { percentilesOf } from '../latencies.js';
import { linearFit } from '../linear-fit.js';
import { type Answer, OpenClient, type Planned } from '../open-client.js';
import { scrape, startServer } from '../server.js';
import { countAnswers, countedBetween, disagreementsOf, settledScrape } from '../server-counts.js';
import { WORKLOADS } from '../workloads.js';
import { trialContext } from './context.js';
import { counted, countsText, type Trial } from './trial.js';

/** Of what the server does at most. */
const LOAD = 0.4;
const WARM_SHARE = 0.2;
const GROWTH_MAX = 0.05;
const DRIFT_MAX = 0.1;
const SAMPLE_MS = 1000;

export const soak: Trial = {
  name: 'soak',
  help: 'Mixed load for --seconds: resident memory grows by less than 5 % after the warm-up, the p99 drifts by less than 10 %.',
  times: 1,
  seconds: 1800,
  run: async ({ seconds, seed, serverOptions }, stop, say) => {
    const server = await startServer(serverOptions);
    const client = new OpenClient(server.url);
    const samples: (readonly [second: number, bytes: number])[] = [];
    try {
      const random = new Random(seed);
      const context = await trialContext(serverOptions);
      const draw = (): Planned => {
        const workload = random.pick([WORKLOADS.short, WORKLOADS.mixed, WORKLOADS.translation, WORKLOADS.streams]);
        return workload(random, context);
      };
      const peakSeconds = Math.min(20, Math.max(2, seconds / 20));
      const idle = await scrape(server.url);
      const saturating = await client.saturate(draw, 16, peakSeconds, stop);
      const peak = saturating.length / peakSeconds;
      const plan = poisson(random, LOAD * peak, seconds).map((atMs) => ({ atMs, planned: draw() }));
      const before = await settledScrape(server.url, idle, saturating.length);
      const startedAtMs = monotonicMs();
      const sampler = setInterval(() => {
        scrape(server.url).then(
          (now) => {
            samples.push([(monotonicMs() - startedAtMs) / 1000, now.sum('process_resident_memory_bytes')]);
            if (samples.length % 60 === 0)
              say(`${samples.length} s, ${((samples.at(-1)?.[1] ?? 0) / 2 ** 20).toFixed(0)} MiB\n`);
          },
          () => {},
        );
      }, SAMPLE_MS);
      const answers = await client.drive(plan, stop).finally(() => clearInterval(sampler));
      const after = await settledScrape(server.url, before, answers.length);
      const problems = disagreementsOf(answers.length, countAnswers(answers), countedBetween(before, after));
      const failed = answers.filter(({ outcome }) => outcome !== 'OK').map(({ outcome }) => outcome);
      if (failed.length > 0) problems.push(`requests ended with ${countsText(counted(failed))}`);

      const warm = samples.filter(([second]) => second >= WARM_SHARE * seconds);
      const { slope, intercept } = linearFit(warm);
      const growth = (slope * (1 - WARM_SHARE) * seconds) / (intercept + slope * WARM_SHARE * seconds);
      if (growth >= GROWTH_MAX)
        problems.push(`resident memory grew by ${(growth * 100).toFixed(1)} % after the warm-up`);
      const late = answers.slice(Math.floor(WARM_SHARE * answers.length));
      const half = Math.floor(late.length / 2);
      const [first, second] = [p99(late.slice(0, half)), p99(late.slice(half))];
      const drift = second / first - 1;
      if (drift >= DRIFT_MAX) problems.push(`the p99 rose by ${(drift * 100).toFixed(1)} %`);
      return {
        rows: [
          ['requests', countsText(counted(answers.map(({ outcome }) => outcome)))],
          ['resident memory after the warm-up, by a fitted line', `${(growth * 100).toFixed(2)} %`],
          [
            'p99 of the first half, of the second',
            `${first.toFixed(0)}, ${second.toFixed(0)} ms: ${(drift * 100).toFixed(1)} %`,
          ],
        ],
        result: { peak, requests: answers.length, growth, drift, p99Ms: [first, second], samples },
        problems,
      };
    } finally {
      client.close();
      await server.stop();
    }
  },
};

function p99(answers: readonly Answer[]): number {
  return percentilesOf(answers.map(({ endedAtMs, intendedAtMs }) => endedAtMs - intendedAtMs))?.p99Ms ?? Number.NaN;
}
