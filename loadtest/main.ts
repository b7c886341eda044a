/** `npm run loadtest -- COMMAND`: the load tests by name. */
import type { Command } from '../src/cli/commands.js';
import { didYouMean } from '../src/nearest.js';
import { SCENARIOS, type ScenarioName } from './scenarios.js';
import type { Trial } from './trials/trial.js';

/** What must not happen, tried often. */
const TRIALS: Readonly<Record<string, { readonly help: string; readonly load: () => Promise<Trial> }>> = {
  sigterm: {
    help: 'SIGTERM under load: no accepted request is lost.',
    load: async () => (await import('./trials/sigterm.js')).sigterm,
  },
  kill: {
    help: 'The engine is killed under load: back in two seconds, nothing leaks.',
    load: async () => (await import('./trials/kill.js')).kill,
  },
  vanish: {
    help: 'Clients that hang up: their rows leave, permits come back.',
    load: async () => (await import('./trials/vanish.js')).vanish,
  },
  hostile: {
    help: 'Broken, huge, slow and random requests: no 5xx but 503, valid ones beside them are served.',
    load: async () => (await import('./trials/hostile.js')).hostile,
  },
  workers: {
    help: 'Throughput over the number of processes.',
    load: async () => (await import('./trials/workers.js')).workers,
  },
  soak: {
    help: 'Mixed load for long: memory and latency stay where they are.',
    load: async () => (await import('./trials/soak.js')).soak,
  },
};

const LOAD_TESTS: Readonly<Record<string, { readonly help: string; readonly load: () => Promise<Command> }>> = {
  closed: {
    help: 'As many requests in flight as connections: throughput, cost of HTTP, responsiveness, memory.',
    load: async () => (await import('./closed.js')).run,
  },
  mixed: {
    help: 'Scoring beside translation: does either starve?',
    load: async () => (await import('./mixed.js')).run,
  },
  spans: {
    help: 'Attention spans against the same model of full span, in one engine.',
    load: async () => (await import('./spans.js')).run,
  },
  'cold-start': {
    help: 'How long a start takes, and how slow the first requests are.',
    load: async () => (await import('./cold-start.js')).run,
  },
  ...Object.fromEntries(
    Object.entries(TRIALS).map(([trial, { help, load }]) => [
      trial,
      {
        help,
        load: async (): Promise<Command> => {
          const [{ runTrial }, found] = await Promise.all([import('./trials/trial.js'), load()]);
          return (argv, io, stop) => runTrial(found, argv, io, stop);
        },
      },
    ]),
  ),
  ...Object.fromEntries(
    Object.entries(SCENARIOS).map(([scenario, { help }]) => [
      scenario,
      {
        help,
        load: async (): Promise<Command> => {
          const { runScenario } = await import('./open.js');
          return (argv, io, stop) => runScenario(scenario as ScenarioName, argv, io, stop);
        },
      },
    ]),
  ),
};

process.exit(await main());

async function main(): Promise<number> {
  const [name = '--help', ...argv] = process.argv.slice(2);
  const test = Object.hasOwn(LOAD_TESTS, name) ? LOAD_TESTS[name] : undefined;
  if (test === undefined) {
    const names = Object.entries(LOAD_TESTS).map(([known, { help }]) => `  ${known.padEnd(14)}${help}\n`);
    const wrong = name === '--help' ? '' : `unknown load test ${name}${didYouMean(name, Object.keys(LOAD_TESTS))}\n`;
    process.stderr.write(`${wrong}Usage: npm run loadtest -- TEST [options]\n\n${names.join('')}`);
    return wrong === '' ? 0 : 2;
  }
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // The second one ends the process at once.
    process.on(signal, () => (stop.signal.aborted ? process.exit(130) : stop.abort()));
  }
  return (await test.load())(argv, process, stop.signal);
}
