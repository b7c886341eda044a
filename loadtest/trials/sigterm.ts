/**
 * SIGTERM under load, again and again: no request that was sent before it may be lost, and the process exits with 0. What is sent after
 * it may be answered, refused with 503 or find nobody.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from '../../src/clock.js';
import { Random } from '../../test/seed.js';
import { poisson } from '../arrivals.js';
import { type Answer, OpenClient } from '../open-client.js';
import { startServer } from '../server.js';
import { WORKLOADS } from '../workloads.js';
import { trialContext } from './context.js';
import { counted, countsText, type Trial, type TrialOptions } from './trial.js';

const PER_SECOND = 15;
/** What a request sent after the signal may end with. */
const AFTER = ['OK', 'DRAINING', 'QUEUE_FULL', 'socket: ECONNREFUSED', 'socket: ECONNRESET', 'socket: EPIPE'];

export const sigterm: Trial = {
  name: 'sigterm',
  help: 'SIGTERM under load: no accepted request is lost.',
  times: 50,
  seconds: 2,
  run: async (options, stop, say) => {
    const before: string[] = [];
    const after: string[] = [];
    const problems: string[] = [];
    const drainsMs: number[] = [];
    for (let time = 1; time <= options.times && !stop.aborted; time++) {
      const { answers, signalAtMs, code, drainMs } = await once(options, time, stop);
      drainsMs.push(drainMs);
      if (code !== 0) problems.push(`time ${time}: the server exited with ${code}`);
      for (const { sentAtMs, outcome, message } of answers) {
        // Refused at the door: full, or written before the signal but read by the server after it. It never was in.
        const atDoor =
          outcome === 'QUEUE_FULL' ||
          (outcome === 'DRAINING' && message?.startsWith('the server is shutting down') === true);
        if (sentAtMs < signalAtMs && !atDoor) {
          before.push(outcome);
          if (outcome !== 'OK') problems.push(`time ${time}: a request sent before SIGTERM ended with ${outcome}`);
        } else {
          after.push(outcome);
          if (!AFTER.includes(outcome))
            problems.push(`time ${time}: a request sent after SIGTERM ended with ${outcome}`);
        }
      }
      if (time % 5 === 0) say(`${time} of ${options.times}\n`);
    }
    return {
      rows: [
        ['requests sent and taken before SIGTERM', countsText(counted(before))],
        ['requests sent after it, or refused at the door', countsText(counted(after))],
        ['from SIGTERM to exit, most', `${Math.max(...drainsMs).toFixed(0)} ms`],
      ],
      result: { before: counted(before), after: counted(after), drainsMs },
      problems,
    };
  },
};

async function once({ serverOptions, seconds, seed }: TrialOptions, time: number, stop: AbortSignal) {
  const server = await startServer(serverOptions);
  // A connection for each request: on one kept alive, a request may cross the closing on its way.
  const client = new OpenClient(server.url, false);
  try {
    const random = new Random(seed * 1000 + time);
    const context = await trialContext(serverOptions);
    const plan = poisson(random, PER_SECOND, seconds + 0.5).map((atMs) => ({
      atMs,
      planned: (random.chance(0.7) ? WORKLOADS.mixed : WORKLOADS.translation)(random, context),
    }));
    const driven: Promise<Answer[]> = client.drive(plan, stop);
    // At any moment: also while the first requests arrive.
    await sleep((0.2 + 0.8 * random.next()) * seconds * 1000);
    const signalAtMs = monotonicMs();
    const code = await server.stop();
    const drainMs = monotonicMs() - signalAtMs;
    return { answers: await driven, signalAtMs, code, drainMs };
  } finally {
    client.close();
    await server.stop();
  }
}
