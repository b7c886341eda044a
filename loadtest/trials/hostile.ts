/**
 * Hostile requests in great number, and valid ones beside them at a fixed rate: no reply may be 5xx but 503, the process stays and does
 * not grow, and the p99 of the valid ones stays within twice what it was without company.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../test/seed.js';
import { poisson } from '../arrivals.js';
import { percentilesOf } from '../latencies.js';
import { type Answer, OpenClient } from '../open-client.js';
import { scrape, startServer } from '../server.js';
import { WORKLOADS } from '../workloads.js';
import { trialContext } from './context.js';
import { drawHostile } from './hostile-requests.js';
import { counted, countsText, type Trial } from './trial.js';

const AT_A_TIME = 8;
const VALID_PER_SECOND = 5;
const P99_FACTOR_MAX = 2;
const ALONE_SECONDS = 20;
const SLOW_MS = 300;
const ANSWER_MS_MAX = 10_000;
const GROWTH_MAX = 0.25;

export const hostile: Trial = {
  name: 'hostile',
  help: 'Hostile requests beside valid ones: no 5xx but 503, no crash, no leak, the valid ones keep their p99 within twice.',
  times: 100_000,
  seconds: ALONE_SECONDS,
  run: async ({ times, seconds, seed, serverOptions }, stop, say) => {
    const server = await startServer(['--headers-timeout-ms=1000', '--request-timeout-ms=1000', ...serverOptions]);
    const client = new OpenClient(server.url);
    try {
      const context = await trialContext(serverOptions);
      const random = new Random(seed);
      const valid = (forSeconds: number, ended: AbortSignal): Promise<Answer[]> =>
        client.drive(
          poisson(random, VALID_PER_SECOND, forSeconds).map((atMs) => ({
            atMs,
            planned: WORKLOADS.short(random, context),
          })),
          ended,
        );
      await valid(2, stop);
      const alone = percentilesOf(
        (await valid(seconds, stop)).map(({ endedAtMs, intendedAtMs }) => endedAtMs - intendedAtMs),
      );
      const residentBefore = (await scrape(server.url)).sum('process_resident_memory_bytes');

      const finished = new AbortController();
      const beside = valid(86_400, AbortSignal.any([finished.signal, stop]));
      const port = Number(new URL(server.url).port);
      const kinds: string[] = [];
      const statuses: string[] = [];
      let residentWarm = residentBefore;
      let left = times;
      const attack = async () => {
        while (left-- > 0 && !stop.aborted) {
          const { kind, bytes, slow } = drawHostile(random);
          kinds.push(kind);
          statuses.push(...(await sendRaw(port, bytes, slow === true)).map((status) => `${status}`));
          if (kinds.length === Math.floor(times / 5))
            residentWarm = (await scrape(server.url)).sum('process_resident_memory_bytes');
          if (kinds.length % 5000 === 0) say(`${kinds.length} of ${times}\n`);
        }
      };
      await Promise.all(Array.from({ length: AT_A_TIME }, attack));
      finished.abort();
      const answers = await beside;
      const company = percentilesOf(answers.map(({ endedAtMs, intendedAtMs }) => endedAtMs - intendedAtMs));
      const after = await scrape(server.url);
      const residentAfter = after.sum('process_resident_memory_bytes');

      const problems: string[] = [];
      const bad = statuses.filter((status) => status.startsWith('5') && status !== '503');
      if (bad.length > 0) problems.push(`replies ${countsText(counted(bad))}`);
      const failed = answers.filter(({ outcome }) => outcome !== 'OK').map(({ outcome }) => outcome);
      if (failed.length > 0) problems.push(`valid requests ended with ${countsText(counted(failed))}`);
      if (after.sum('ponder_engine_restarts_total') > 0) problems.push('the engine was restarted');
      const growth = residentAfter / residentWarm - 1;
      if (growth > GROWTH_MAX)
        problems.push(`resident memory grew by ${(growth * 100).toFixed(0)} % from a fifth of the requests on`);
      const factor = (company?.p99Ms ?? 0) / (alone?.p99Ms ?? 1);
      if (factor > P99_FACTOR_MAX)
        problems.push(`p99 of valid requests is ${factor.toFixed(1)} times what it was alone`);
      const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
      return {
        rows: [
          ['hostile requests', countsText(counted(kinds))],
          ['replies by status', countsText(counted(statuses))],
          ['valid requests beside them', countsText(counted(answers.map(({ outcome }) => outcome)))],
          [
            'their p99 alone, in company',
            `${alone?.p99Ms.toFixed(0)}, ${company?.p99Ms.toFixed(0)} ms: ${factor.toFixed(2)} times`,
          ],
          [
            'resident before, after a fifth, at the end',
            `${mib(residentBefore)}, ${mib(residentWarm)}, ${mib(residentAfter)}`,
          ],
        ],
        result: {
          kinds: counted(kinds),
          statuses: counted(statuses),
          alone,
          company,
          factor,
          residentBefore,
          residentWarm,
          residentAfter,
        },
        problems,
      };
    } finally {
      client.close();
      await server.stop();
    }
  },
};

/** Statuses of all replies, or how the connection ended without one. */
async function sendRaw(port: number, bytes: Buffer, slow: boolean): Promise<(number | string)[]> {
  let said = '';
  const socket = connect(port, '127.0.0.1').setEncoding('latin1');
  socket
    .on('error', () => {})
    .on('data', (chunk: string) => {
      said += chunk;
    });
  const closed = once(socket, 'close').catch(() => {});
  if (slow) {
    socket.write(bytes);
    await Promise.race([closed, sleep(SLOW_MS)]);
  } else {
    // Half closed: the server knows that no more will come, and may still answer.
    socket.end(bytes);
    await Promise.race([closed, sleep(ANSWER_MS_MAX, undefined, { ref: false })]);
  }
  socket.destroy();
  const statuses = [...said.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)].map(([, status]) => Number(status));
  return statuses.length > 0 ? statuses : [slow ? 'left by us' : 'no reply'];
}
