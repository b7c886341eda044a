/**
 * Clients that hang up at any moment: before their headers are whole, in their body, while they wait, in the middle of the reply. At the
 * end nothing may be left of them: no rows, no permits, no bytes of bodies, and the next request is served at once.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from '../../src/clock.js';
import { Random } from '../../test/seed.js';
import { OpenClient } from '../open-client.js';
import { type Scrape, scrape, startServer } from '../server.js';
import { WORKLOADS, type WorkloadContext } from '../workloads.js';
import { trialContext } from './context.js';
import { counted, countsText, type Trial } from './trial.js';

const AT_A_TIME = 32;
/** Far more than a step: on a busy machine the server first has to accept all that have already gone. */
const EMPTY_WITHIN_MS = 60_000;
/** Gauges that say that something of a request is still there. */
const LEFT = [
  'ponder_lanes_waiting',
  'ponder_lanes_running',
  'ponder_slots_used',
  'ponder_cache_rows_used',
  'ponder_requests_in_work',
] as const;

export const vanish: Trial = {
  name: 'vanish',
  help: 'Clients that hang up: their rows leave at the next step, permits all come back.',
  times: 10_000,
  seconds: 0,
  run: async ({ times, seed, serverOptions }, stop, say) => {
    // Limits so low that whatever is not given back is soon missed.
    const server = await startServer(['--bodies-bytes-max=8388608', ...serverOptions]);
    const client = new OpenClient(server.url);
    try {
      const random = new Random(seed);
      const context = await trialContext(serverOptions);
      await client.send(WORKLOADS.mixed(random, context), monotonicMs());
      const port = Number(new URL(server.url).port);
      const moments: string[] = [];
      let left = times;
      const hangUp = async () => {
        while (left-- > 0 && !stop.aborted) {
          moments.push(await vanishOnce(port, random, context));
          if (moments.length % 1000 === 0) say(`${moments.length} of ${times}\n`);
        }
      };
      await Promise.all(Array.from({ length: AT_A_TIME }, hangUp));
      const lastAtMs = monotonicMs();
      const problems: string[] = [];
      let now: Scrape = await scrape(server.url);
      while (LEFT.some((name) => now.sum(name) > 0) && monotonicMs() - lastAtMs < EMPTY_WITHIN_MS) {
        await sleep(20);
        now = await scrape(server.url);
      }
      const emptyMs = monotonicMs() - lastAtMs;
      for (const name of LEFT)
        if (now.sum(name) > 0) problems.push(`${name} is ${now.sum(name)} after ${emptyMs.toFixed(0)} ms`);
      const answer = await client.send(WORKLOADS.mixed(random, context), monotonicMs());
      if (answer.outcome !== 'OK') problems.push(`a request after them ended with ${answer.outcome}`);
      const outcomes = Object.fromEntries(
        now
          .values('ponder_requests_total', 'outcome')
          .map((outcome) => [outcome, now.sum('ponder_requests_total', `outcome="${outcome}"`)]),
      );
      for (const bad of ['INTERNAL', 'ENGINE_LOST'])
        if ((outcomes[bad] ?? 0) > 0) problems.push(`${outcomes[bad]} requests ended with ${bad}`);
      if (now.sum('ponder_engine_restarts_total') > 0) problems.push('the engine was restarted');
      return {
        rows: [
          ['clients, by when they hung up', countsText(counted(moments))],
          ['outcomes that the server counted', countsText(outcomes)],
          ['empty after the last one', `${emptyMs.toFixed(0)} ms`],
        ],
        result: { moments: counted(moments), outcomes, emptyMs },
        problems,
      };
    } finally {
      client.close();
      await server.stop();
    }
  },
};

async function vanishOnce(port: number, random: Random, context: WorkloadContext): Promise<string> {
  const workload = random.pick([WORKLOADS.mixed, WORKLOADS.short, WORKLOADS.translation, WORKLOADS.streams]);
  const { path, body } = workload(random, context);
  const head = `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n`;
  const moment = random.pick(['headers', 'body', 'waiting', 'waiting', 'waiting', 'reply'] as const);
  const socket = connect(port, '127.0.0.1').on('error', () => {});
  const closed = once(socket, 'close');
  switch (moment) {
    case 'headers':
      socket.write(head.slice(0, random.int(1, head.length - 1)));
      await sleep(random.int(0, 20));
      break;
    case 'body':
      socket.write(head + body.slice(0, random.int(0, body.length - 1)));
      await sleep(random.int(0, 20));
      break;
    case 'waiting':
      socket.write(head + body);
      await sleep(random.int(0, 80));
      break;
    case 'reply':
      socket.write(head + body);
      await Promise.race([once(socket, 'data'), sleep(1000)]);
      break;
    default:
      moment satisfies never;
  }
  socket.destroy();
  await closed;
  return moment;
}
