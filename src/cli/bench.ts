/**
 * `ponder-serve bench`: what adaptive depth gains on this machine, and how the engine compares with the loops one would write
 * without it. The engine runs as in the server; everything is measured in one invocation, and ratios are taken round by round.
 */
import { type Config, parseConfig } from '../config.js';
import { startEngine } from '../engine/start.js';
import type { ModelDescription } from '../models/description.js';
import type { Manifest } from '../models/manifest.js';
import { loadModels, packageFacts } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import { nodeLoopBaselines, pytorchBaseline } from './bench-baselines.js';
import { describeMachine } from './bench-machine.js';
import { renderReport, reportOf } from './bench-report.js';
import { type Baseline, measureRounds } from './bench-rounds.js';
import { equalSequences, goldenIds, mixedSequences } from './bench-sequences.js';
import { chooseModel, MEASURED } from './choose-model.js';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  type ParsedFlags,
  parseFlags,
  runCommand,
  UsageError,
  write,
} from './command.js';
import { assertReadable, readText, shownName } from './read-text.js';

const FLAGS = {
  model: 'value',
  length: 'value',
  sequences: 'value',
  rounds: 'value',
  seed: 'value',
  'node-loop': 'switch',
  pytorch: 'value',
  json: 'switch',
  help: 'switch',
} as const;
type Flags = ParsedFlags<typeof FLAGS>['values'];

export const USAGE = `Usage: ponder-serve bench [FILE|-] [options]

Measures tokens per second with adaptive depth against full depth, both in every round, on the text of FILE or, without
one, on the package's own examples.

  --model NAME       package to use (default: the only one that scores text by depth)
  --length N         tokens of a sequence (default: 128)
  --sequences N      sequences of a round (default: 64)
  --rounds N         rounds; medians are quoted (default: 5)
  --seed N           of the mixed lengths (default: 1)
  --node-loop        also a loop over onnxruntime-node, in batches of 16, without compaction
  --pytorch PYTHON   also the loop with masks in export/compare_loop.py, with this interpreter
  --json             everything, with the machine and every round, for machines

Every option of the engine works too (--models, --precision, --threads, --batch-rows-max; see ponder-serve serve --help).
`;

const MIXED_LENGTHS = { min: 8, max: 512 };

/** The queue is the command's own: nothing is refused for its length or its wait. */
const UNLIMITED = { queueLanesMax: 1_000_000, queueTokensMax: 2 ** 31, queueWaitMsMax: 2 ** 31 - 1 };

interface Options {
  readonly file: string | null;
  readonly length: number;
  readonly sequences: number;
  readonly rounds: number;
  readonly seed: number;
  readonly nodeLoop: boolean;
  readonly pytorch: string | null;
}

export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  return runCommand('bench', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [file = null, ...more] = positionals;
    if (more.length > 0) throw new UsageError(`one FILE at a time, not also ${more.join(' ')}`);
    const options = optionsOf(values, file);
    const config = { ...parseConfig(serverOptions, env), ...UNLIMITED };
    if (file !== null) await assertReadable(file);
    const model = await chooseModel(config, values.model, MEASURED, loadModels);
    const { manifest } = await packageFacts(config.models, model.id);
    if (options.length > model.contextTokens - 1) {
      throw new UsageError(
        `--length ${options.length} exceeds what the model reads at once (${model.contextTokens - 1})`,
      );
    }
    const result = await bench(model, manifest, config, options, io, stop);
    await write(io.stdout, values.json !== undefined ? `${JSON.stringify(result, null, 2)}\n` : titled(result));
    return EXIT.ok;
  });
}

function optionsOf(values: Flags, file: string | null): Options {
  return {
    file,
    length: countFlag('length', values.length) ?? 128,
    sequences: countFlag('sequences', values.sequences) ?? 64,
    rounds: countFlag('rounds', values.rounds) ?? 5,
    seed: countFlag('seed', values.seed) ?? 1,
    nodeLoop: values['node-loop'] !== undefined,
    pytorch: values.pytorch ?? null,
  };
}

type BenchResult = Awaited<ReturnType<typeof bench>>;

async function bench(
  model: ModelDescription,
  manifest: Manifest,
  config: Config,
  options: Options,
  io: CommandIo,
  stop: AbortSignal,
) {
  const ids = await idsOf(options.file, model, io);
  const { seed } = options;
  const sequences = equalSequences(ids, options.sequences, options.length);
  const tokens = options.sequences * options.length;
  const longest = Math.min(MIXED_LENGTHS.max, model.contextTokens - 1);
  const mixed = mixedSequences(ids, { tokens, min: MIXED_LENGTHS.min, max: longest, seed });
  const engine = await startEngine(config, [model]).catch((error: unknown) => {
    throw new CommandError(error instanceof Error ? error.message : String(error));
  });
  const baselines: Baseline[] = [];
  const endings: (() => Promise<void>)[] = [() => engine.drain(0)];
  try {
    const work = { model, manifest, sequences, threads: config.threads };
    if (options.nodeLoop) {
      const { baselines: loops, end } = nodeLoopBaselines(work);
      baselines.push(...loops);
      endings.push(end);
    }
    if (options.pytorch !== null) {
      const { baseline, end } = await pytorchBaseline(options.pytorch, work, stop);
      baselines.push(baseline);
      endings.push(end);
    }
    const plan = { engine, model, sequences, mixed, baselines, rounds: options.rounds };
    const rounds = await measureRounds(plan, (text) => io.stderr.write(text), stop);
    const lengthsOf = (set: readonly Int32Array[]) => set.map(({ length }) => length);
    const { d_model: width, d_ff: feedForward, vocab: vocabulary } = manifest.dimensions;
    const report = reportOf({
      rounds,
      baselineNames: baselines.map(({ name }) => name),
      dimensions: { width, feedForward, vocabulary },
      maxSteps: model.maxSteps,
      lengths: lengthsOf(sequences),
      mixedLengths: lengthsOf(mixed),
    });
    return {
      measuredAt: new Date().toISOString(),
      machine: await describeMachine(),
      model: model.id,
      precision: model.precision,
      engine: { ...engine.info(), batchRowsMax: config.batchRowsMax, lanesMax: config.lanesMax },
      options,
      mixedLengths: lengthsOf(mixed),
      report,
      rounds,
    };
  } finally {
    await Promise.all(endings.map((end) => end()));
  }
}

async function idsOf(file: string | null, model: ModelDescription, io: CommandIo): Promise<Int32Array> {
  if (file === null) return goldenIds(model.folder);
  const { ids } = await (await loadTokenizer(model.folder)).encode(await readText(file, io.stdin));
  if (ids.length === 0) throw new CommandError(`${shownName(file)} is empty: there is nothing to score`);
  return ids;
}

function titled({ model, precision, engine, options, machine, report }: BenchResult): string {
  const { sequences, length, rounds, file } = options;
  const title =
    `${model} ${precision}, ${engine.backend} ${machine.onnxruntime}, ${engine.threads} threads on ${machine.cpu}\n` +
    `${sequences} sequences of ${length} tokens of ${file ?? "the package's examples"}, medians of ${rounds} rounds`;
  return renderReport(title, report);
}
