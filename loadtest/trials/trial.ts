/** What the trials share: how often, by which seed, and how their result is told. A trial that found a problem exits with 1. */
import { loadavg } from 'node:os';
import { describeMachine } from '../../src/cli/bench-machine.js';
import { type CommandIo, countFlag, EXIT, parseFlags, runCommand, UsageError, write } from '../../src/cli/command.js';
import { table } from '../../src/cli/terminal.js';
import { saveResult } from '../results.js';

const FLAGS = {
  times: 'value',
  seconds: 'value',
  seed: 'value',
  save: 'switch',
  json: 'switch',
  help: 'switch',
} as const;

export interface TrialOptions {
  /** How often what the trial is about happens. */
  readonly times: number;
  readonly seconds: number;
  readonly seed: number;
  readonly serverOptions: readonly string[];
}

export interface Verdict {
  /** Lines of the report. */
  readonly rows: readonly (readonly [string, string])[];
  readonly result: object;
  readonly problems: readonly string[];
}

export interface Trial {
  readonly name: string;
  readonly help: string;
  readonly times: number;
  readonly seconds: number;
  readonly run: (options: TrialOptions, stop: AbortSignal, say: (text: string) => void) => Promise<Verdict>;
}

export function runTrial(
  { name, help, run, ...defaults }: Trial,
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
): Promise<number> {
  return runCommand(`loadtest ${name}`, io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, usage(name, help, defaults));
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected argument ${positionals[0]}`);
    const options = {
      times: countFlag('times', values.times) ?? defaults.times,
      seconds: countFlag('seconds', values.seconds) ?? defaults.seconds,
      seed: countFlag('seed', values.seed) ?? 1,
      serverOptions,
    };
    const { rows, result, problems } = await run(options, stop, (text) => void io.stderr.write(text));
    const measuredAt = new Date().toISOString();
    const whole = {
      trial: name,
      measuredAt,
      machine: await describeMachine(),
      loadAverage: loadavg(),
      options,
      ...result,
      problems,
    };
    const json = `${JSON.stringify(whole, null, 2)}\n`;
    if (values.save !== undefined) io.stderr.write(`saved to ${await saveResult(name, measuredAt, { json })}\n`);
    await write(io.stdout, values.json !== undefined ? json : table(rows));
    for (const problem of problems) io.stderr.write(`FAILED ${problem}\n`);
    return problems.length === 0 ? EXIT.ok : EXIT.failed;
  });
}

function usage(name: string, help: string, { times, seconds }: { times: number; seconds: number }): string {
  return `Usage: npm run loadtest -- ${name} [options]

${help}

  --times N     how often (default: ${times})
  --seconds N   how long each time, or in all (default: ${seconds})
  --seed N      of whatever is drawn (default: 1)
  --save        write JSON to loadtest/results/
  --json        print the result as JSON

Every option of the server works too. Exits with 1 when something happened that must not.
`;
}

/** Outcomes and how often each came, most frequent first. */
export function counted(outcomes: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const outcome of outcomes) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return Object.fromEntries(Object.entries(counts).sort(([, a], [, b]) => b - a));
}

export function countsText(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .map(([outcome, count]) => `${outcome} ${count}`)
    .join(', ');
}
