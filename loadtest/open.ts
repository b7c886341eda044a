/**
 * `npm run loadtest -- SCENARIO`: the scenarios of `scenarios.ts`, in an open loop. First the peak is measured (a closed loop that keeps
 * the server busy), then the phases run at shares of it; or, with `--find-capacity`, the highest rate within an objective is searched.
 */
import { describeMachine } from '../src/cli/bench-machine.js';
import {
  type CommandIo,
  countFlag,
  EXIT,
  type ParsedFlags,
  parseFlags,
  runCommand,
  UsageError,
  write,
} from '../src/cli/command.js';
import { parseConfig } from '../src/config.js';
import { type Capacities, capacities, renderCapacity } from './open-capacity.js';
import { OpenClient } from './open-client.js';
import { type Peak, renderPage, renderPhases } from './open-report.js';
import { depthsOf, measurePeak, type Options, type Run, runPhases } from './open-run.js';
import type { PhaseResult } from './phase.js';
import { saveResult } from './results.js';
import { SCENARIOS, type Scenario, type ScenarioName } from './scenarios.js';
import { runningServer, startServer } from './server.js';
import { loadCorpus } from './texts.js';

const FLAGS = {
  seconds: 'value',
  rate: 'value',
  seed: 'value',
  'deadline-ms': 'value',
  file: 'value',
  url: 'value',
  keys: 'value',
  connections: 'value',
  'find-capacity': 'switch',
  'objective-ms': 'value',
  quantile: 'value',
  save: 'switch',
  json: 'switch',
  help: 'switch',
} as const;

export const USAGE = `Usage: npm run loadtest -- SCENARIO [options]

  --seconds N        a phase (default: 20)
  --rate N           requests a second that count as the peak (default: measured first)
  --seed N           of arrivals and texts (default: 1)
  --deadline-ms N    deadline of every request (default: the scenario's)
  --file FILE        where the texts come from (default: the evaluation texts, or the packages' examples)
  --url URL          a server that runs already
  --keys A,B         API keys to send, one tenant each
  --connections N    requests in flight while the peak is measured (default: 32)
  --find-capacity    search the highest rate within the objective, for adaptive and for full depth
  --objective-ms N   the latency that must not be exceeded (default: 1000)
  --quantile Q       by this share of the requests (default: 0.99)
  --save             write JSON and an HTML page to loadtest/results/
  --json             print the result as JSON

Every option of the server works too. Exits with 1 when a request got no answer or one it should not get, when client and server do not
agree on every count, or when a goal of the scenario was missed.
`;

export function runScenario(
  name: ScenarioName,
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
): Promise<number> {
  return runCommand(`loadtest ${name}`, io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected argument ${positionals[0]}`);
    const scenario: Scenario = SCENARIOS[name];
    const options = optionsOf(values, scenario);
    const config = parseConfig(serverOptions, process.env);
    const corpus = await loadCorpus(options.file, config.models);
    const server = options.url === null ? await startServer(serverOptions) : runningServer(options.url);
    const client = new OpenClient(server.url);
    try {
      const depths = await depthsOf(server.url);
      const run: Run = { scenario, options, server, client, corpus, depths, io, stop };
      const peak = await measurePeak(run);
      const phases = options.findCapacity ? [] : await runPhases(run, peak);
      const capacity = options.findCapacity ? await capacities(run, peak) : null;
      const problems = [
        ...phases.flatMap((phase) => phase.problems.map((text) => `${phase.name} ${phase.mode}: ${text}`)),
        ...missed(scenario, phases, peak),
      ];
      const result = {
        scenario: name,
        measuredAt: new Date().toISOString(),
        machine: await describeMachine(),
        seed: options.seed,
        options: { ...options, serverOptions, threads: config.threads, precision: config.precision },
        texts: corpus.source,
        peak,
        phases,
        capacity,
        problems,
      };
      const json = `${JSON.stringify(result, null, 2)}\n`;
      if (values.save !== undefined) {
        const facts = factsOf(result, capacity, options);
        const page = renderPage({ title: `Load test: ${name}`, facts, phases, problems });
        io.stderr.write(
          `saved to ${(await saveResult(name, result.measuredAt, { json, html: page })).join(' and ')}\n`,
        );
      }
      const text = capacity === null ? renderPhases(phases, peak) : renderCapacity(capacity, options);
      await write(io.stdout, values.json !== undefined ? json : text);
      for (const problem of problems) io.stderr.write(`FAILED ${problem}\n`);
      return problems.length === 0 ? EXIT.ok : EXIT.failed;
    } finally {
      client.close();
      await server.stop();
    }
  });
}

function optionsOf(values: ParsedFlags<typeof FLAGS>['values'], scenario: Scenario): Options {
  const numberFlag = (flag: 'rate' | 'quantile', min: number, max: number): number | null => {
    const value = values[flag];
    if (value === undefined) return null;
    const number = Number(value);
    if (number > min && number < max) return number;
    throw new UsageError(`--${flag} must be a number above ${min} and below ${max}, not '${value}'`);
  };
  return {
    seconds: countFlag('seconds', values.seconds) ?? 20,
    rate: numberFlag('rate', 0, 1e6),
    seed: countFlag('seed', values.seed) ?? 1,
    deadlineMs: countFlag('deadline-ms', values['deadline-ms']) ?? scenario.deadlineMs ?? null,
    file: values.file ?? null,
    url: values.url ?? null,
    keys: values.keys === undefined ? [] : values.keys.split(','),
    connections: countFlag('connections', values.connections) ?? 32,
    findCapacity: values['find-capacity'] !== undefined,
    objectiveMs: countFlag('objective-ms', values['objective-ms']) ?? 1000,
    quantile: numberFlag('quantile', 0, 1) ?? 0.99,
  };
}

function missed({ goodputMin }: Scenario, phases: readonly PhaseResult[], peak: Peak): string[] {
  if (goodputMin === undefined) return [];
  return phases.flatMap(({ name, tokensPerSecond }) => {
    const share = tokensPerSecond / peak.tokensPerSecond;
    return share >= goodputMin ? [] : [`${name}: goodput is ${share.toFixed(2)} of the peak, wanted ${goodputMin}`];
  });
}

interface Facts {
  readonly scenario: string;
  readonly measuredAt: string;
  readonly machine: Awaited<ReturnType<typeof describeMachine>>;
  readonly seed: number;
  readonly texts: string;
  readonly peak: Peak;
  readonly options: object;
}

function factsOf(facts: Facts, capacity: Capacities | null, options: Options): (readonly [string, string])[] {
  const { machine, peak } = facts;
  return [
    ['Measured', facts.measuredAt],
    ['Commit', `${machine.commit ?? 'unknown'}${machine.dirty ? ' with changes' : ''}`],
    ['Machine', `${machine.cores} cores of ${machine.cpu}, Node ${machine.node}, ONNX Runtime ${machine.onnxruntime}`],
    ['Seed', String(facts.seed)],
    ['Texts', facts.texts],
    ['Options', JSON.stringify(facts.options)],
    ['Peak (closed loop)', `${peak.okPerSecond.toFixed(1)} requests/s, ${peak.tokensPerSecond.toFixed(0)} tokens/s`],
    ...(capacity === null ? [] : [['Capacity', renderCapacity(capacity, options)] as const]),
  ];
}
