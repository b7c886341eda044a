/**
 * `npm run loadtest -- cold-start`: from starting the process until it listens, until its first answer, and how much slower its first
 * requests are than later ones: an open loop begins at the moment at which it listens.
 */
import { median } from '../src/cli/bench-arithmetic.js';
import { describeMachine } from '../src/cli/bench-machine.js';
import {
  type CommandIo,
  countFlag,
  EXIT,
  parseFlags,
  runCommand,
  Stopped,
  UsageError,
  write,
} from '../src/cli/command.js';
import { table } from '../src/cli/terminal.js';
import { parseConfig } from '../src/config.js';
import { Random } from '../test/seed.js';
import { poisson } from './arrivals.js';
import { type Answer, OpenClient } from './open-client.js';
import { depthsOf } from './open-run.js';
import { saveResult } from './results.js';
import { startServer } from './server.js';
import { loadCorpus } from './texts.js';
import { WORKLOADS } from './workloads.js';

const FLAGS = {
  starts: 'value',
  seconds: 'value',
  rate: 'value',
  seed: 'value',
  save: 'switch',
  json: 'switch',
  help: 'switch',
} as const;

export const USAGE = `Usage: npm run loadtest -- cold-start [options]

  --starts N    how often the server is started (default: 5)
  --seconds N   of requests after each start (default: 5)
  --rate N      requests a second (default: 10)
  --seed N      of arrivals and texts (default: 1)
  --save        write JSON to loadtest/results/
  --json        print the result as JSON

Every option of the server works too. Exits with 1 when a request was not answered with 200.
`;

export function run(argv: string[], io: CommandIo, stop: AbortSignal = new AbortController().signal): Promise<number> {
  return runCommand('loadtest cold-start', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected argument ${positionals[0]}`);
    const count = (flag: 'starts' | 'seconds' | 'rate' | 'seed', otherwise: number) =>
      countFlag(flag, values[flag]) ?? otherwise;
    const options = {
      starts: count('starts', 5),
      seconds: count('seconds', 5),
      rate: count('rate', 10),
      seed: count('seed', 1),
    };
    const corpus = await loadCorpus(null, parseConfig(serverOptions, process.env).models);
    const starts: Start[] = [];
    for (let i = 0; i < options.starts; i++) {
      if (stop.aborted) throw new Stopped();
      const server = await startServer(serverOptions);
      const client = new OpenClient(server.url);
      try {
        const random = new Random(options.seed + i);
        const context = {
          corpus,
          depths: await depthsOf(server.url),
          mode: 'adaptive',
          deadlineMs: null,
          tenants: [],
        } as const;
        const times = [0, ...poisson(random, options.rate, options.seconds)];
        const plan = times.map((atMs) => ({ atMs, planned: WORKLOADS.short(random, context) }));
        starts.push(startOf(server.readyMs ?? 0, await client.drive(plan, stop)));
        io.stderr.write(`start ${i + 1} of ${options.starts}: ready after ${(server.readyMs ?? 0).toFixed(0)} ms\n`);
      } finally {
        client.close();
        await server.stop();
      }
    }
    const failed = starts.reduce((sum, start) => sum + start.failed, 0);
    const measuredAt = new Date().toISOString();
    const result = {
      measuredAt,
      machine: await describeMachine(),
      options: { ...options, serverOptions },
      starts,
      failed,
    };
    const json = `${JSON.stringify(result, null, 2)}\n`;
    if (values.save !== undefined)
      io.stderr.write(`saved to ${await saveResult('cold-start', measuredAt, { json })}\n`);
    await write(io.stdout, values.json !== undefined ? json : render(starts));
    return failed === 0 ? EXIT.ok : EXIT.failed;
  });
}

interface Start {
  readonly readyMs: number;
  readonly firstAnswerMs: number;
  /** Median latency of the requests of the first second, and of those after it. */
  readonly firstSecondMs: number;
  readonly laterMs: number;
  readonly failed: number;
}

function startOf(readyMs: number, answers: readonly Answer[]): Start {
  const first = answers[0] as Answer;
  const latency = ({ endedAtMs, intendedAtMs }: Answer) => endedAtMs - intendedAtMs;
  const isEarly = ({ intendedAtMs }: Answer) => intendedAtMs - first.intendedAtMs < 1000;
  const later = answers.filter((answer) => !isEarly(answer)).map(latency);
  return {
    readyMs,
    firstAnswerMs: latency(first),
    firstSecondMs: median(answers.filter(isEarly).map(latency)),
    laterMs: later.length === 0 ? Number.NaN : median(later),
    failed: answers.filter(({ outcome }) => outcome !== 'OK').length,
  };
}

function render(starts: readonly Start[]): string {
  const ms = (of: (start: Start) => number) => `${median(starts.map(of)).toFixed(0)} ms`;
  return table([
    ['process started to listening', ms(({ readyMs }) => readyMs)],
    ['first request after that', ms(({ firstAnswerMs }) => firstAnswerMs)],
    ['requests of the first second, median', ms(({ firstSecondMs }) => firstSecondMs)],
    ['later requests, median', ms(({ laterMs }) => laterMs)],
    ['requests that failed', String(starts.reduce((sum, { failed }) => sum + failed, 0))],
  ]);
}
