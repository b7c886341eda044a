/**
 * `ponder-serve tune`: what a package's quality costs. The same text is scored under each setting of `max_steps` and `threshold`; the
 * curve shows what each gives and takes, and the cheapest one within the loss that is allowed is recommended; so is a floor of steps for
 * requests of quality adaptive, which lowers `max_steps` and nothing else.
 */
import { writeFile } from 'node:fs/promises';
import { type Config, parseConfig } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import { startEngine } from '../engine/start.js';
import type { ModelDescription } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import { measureEngine } from './bench-engine.js';
import { describeMachine } from './bench-machine.js';
import { goldenText } from './bench-sequences.js';
import { chooseModel, MEASURED } from './choose-model.js';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  parseFlags,
  runCommand,
  Stopped,
  UsageError,
  write,
} from './command.js';
import { linePlot } from './plot.js';
import { Progress } from './progress.js';
import { assertReadable, readText } from './read-text.js';
import { table } from './terminal.js';

const FLAGS = { model: 'value', tokens: 'value', loss: 'value', svg: 'value', json: 'switch', help: 'switch' } as const;

export const USAGE = `Usage: ponder-serve tune [FILE|-] [options]

Scores the text of FILE, or the package's own examples, under each max_steps and several thresholds, and recommends settings.

  --model NAME   package to use (default: the only one that scores text by depth)
  --tokens N     tokens of the text to score (default: 4096)
  --loss PCT     bits per byte that may be lost, in percent of the model's own (default: 1)
  --svg FILE     draw the curve
  --json         everything, for machines

Every option of the engine works too (--models, --precision, --threads; see ponder-serve serve --help).
`;

const THRESHOLDS = [0.3, 0.5, 0.7, 0.8, 0.9, 0.95] as const;
const SEQUENCE_TOKENS = 128;
const CONCURRENCY = 32;
const UNLIMITED = { queueLanesMax: 1_000_000, queueTokensMax: 2 ** 31, queueWaitMsMax: 2 ** 31 - 1 };

export interface Setting {
  readonly name: string;
  readonly budget: Budget;
}

export interface Tuned extends Setting {
  readonly bitsPerByte: number;
  /** Rows of the step graph a token: what it costs. */
  readonly stepsPerToken: number;
  readonly tokensPerSecond: number;
}

/** @param stop aborts between two settings */
export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  return runCommand('tune', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [file = null, ...more] = positionals;
    if (more.length > 0) throw new UsageError(`one FILE at a time, not also ${more.join(' ')}`);
    const loss = lossFlag(values.loss);
    const config = { ...parseConfig(serverOptions, env), ...UNLIMITED };
    if (file !== null) await assertReadable(file);
    const model = await chooseModel(config, values.model, MEASURED, loadModels);
    const text = file === null ? await goldenText(model.folder) : await readText(file, io.stdin);
    const measured = await measure(model, text, countFlag('tokens', values.tokens) ?? 4096, config, io, stop);
    const recommended = recommend(measured, loss);
    if (values.svg !== undefined) await writeFile(values.svg, curve(model.id, measured));
    const qualityStepsMin = recommendFloor(measured, loss);
    const result = {
      machine: await describeMachine(),
      model: model.id,
      loss,
      settings: measured,
      recommended,
      qualityStepsMin,
    };
    await write(io.stdout, values.json !== undefined ? `${JSON.stringify(result, null, 2)}\n` : render(result));
    return EXIT.ok;
  });
}

function lossFlag(value: string | undefined): number {
  if (value === undefined) return 1;
  const loss = Number(value);
  if (loss >= 0 && loss <= 100) return loss;
  throw new UsageError(`--loss must be a number from 0 to 100, not '${value}'`);
}

/** The model's own first; it is what the others are compared with. */
export function settingsOf({ maxSteps, threshold }: Pick<ModelDescription, 'maxSteps' | 'threshold'>): Setting[] {
  const own = { maxSteps, minSteps: 1, threshold };
  const capped = Array.from({ length: maxSteps - 1 }, (_, i) => maxSteps - 1 - i);
  return [
    { name: "the model's own", budget: own },
    ...capped.map((steps) => ({ name: `max_steps ${steps}`, budget: { ...own, maxSteps: steps } })),
    ...THRESHOLDS.filter((value) => value < threshold)
      .reverse()
      .map((value) => ({ name: `threshold ${value}`, budget: { ...own, threshold: value } })),
  ];
}

async function measure(
  model: ModelDescription,
  text: string,
  tokens: number,
  config: Config,
  io: CommandIo,
  stop: AbortSignal,
): Promise<Tuned[]> {
  const { ids, offsets } = await (await loadTokenizer(model.folder)).encode(text);
  const used = Math.min(tokens, ids.length);
  if (used === 0) throw new CommandError('the text is empty: there is nothing to score');
  const bytes = Buffer.byteLength(text.slice(0, offsets[used]));
  const length = Math.min(SEQUENCE_TOKENS, model.contextTokens - 1);
  const sequences = Array.from({ length: Math.ceil(used / length) }, (_, i) =>
    ids.slice(i * length, Math.min(used, (i + 1) * length)),
  );
  const engine = await startEngine(config, [model]).catch((error: unknown) => {
    throw new CommandError(error instanceof Error ? error.message : String(error));
  });
  const settings = settingsOf(model);
  const progress = new Progress(io.stderr, 'tuning', settings.length, undefined, { unit: 'settings' });
  try {
    const measured: Tuned[] = [];
    for (const setting of settings) {
      if (stop.aborted) throw new Stopped();
      const load = { model, sequences, budget: setting.budget, concurrency: CONCURRENCY };
      const { logprob, positionSteps, seconds } = await measureEngine(engine, load, stop);
      measured.push({
        ...setting,
        bitsPerByte: -logprob / Math.LN2 / bytes,
        stepsPerToken: positionSteps / used,
        tokensPerSecond: used / seconds,
      });
      progress.update(measured.length);
    }
    return measured;
  } finally {
    progress.end();
    await engine.drain(0);
  }
}

/** The settings that lose at most so many percent of the model's own bits per byte; its own is the first of them. */
function withinLoss(measured: readonly Tuned[], lossPercent: number): [own: Tuned, ...others: Tuned[]] {
  const [own, ...others] = measured;
  if (own === undefined) throw new Error('nothing was measured');
  const worst = own.bitsPerByte * (1 + lossPercent / 100);
  return [own, ...others.filter(({ bitsPerByte }) => bitsPerByte <= worst)];
}

/** The cheapest setting within the loss. */
export function recommend(measured: readonly Tuned[], lossPercent: number): Tuned {
  const within = withinLoss(measured, lossPercent);
  const [own] = within;
  return within.reduce((best, setting) => (setting.stepsPerToken < best.stepsPerToken ? setting : best), own);
}

/** The fewest steps within the loss at the model's own threshold; whether a threshold would be cheaper is no matter here. */
export function recommendFloor(measured: readonly Tuned[], lossPercent: number): number {
  const [own, ...others] = withinLoss(measured, lossPercent);
  const capped = others.filter(({ budget }) => budget.threshold === own.budget.threshold);
  return Math.min(own.budget.maxSteps, ...capped.map(({ budget }) => budget.maxSteps));
}

interface Tuning {
  readonly settings: readonly Tuned[];
  readonly recommended: Tuned;
  readonly qualityStepsMin: number;
  /** Percent. */
  readonly loss: number;
}

export function render({ settings: measured, recommended, qualityStepsMin, loss }: Tuning): string {
  const own = measured[0] as Tuned;
  const rows = measured.map(({ name, bitsPerByte, stepsPerToken, tokensPerSecond }) => [
    name,
    bitsPerByte.toFixed(4),
    `${(100 * (bitsPerByte / own.bitsPerByte - 1)).toFixed(2)} %`,
    stepsPerToken.toFixed(2),
    tokensPerSecond.toFixed(0),
  ]);
  return (
    table([['setting', 'bits/byte', 'lost', 'steps/token', 'tokens/s'], ...rows], [1, 2, 3, 4]) +
    `\nCheapest within ${loss} %: ${recommended.name}, ${recommended.stepsPerToken.toFixed(2)} of ` +
    `${own.stepsPerToken.toFixed(2)} steps a token. In a request: ${JSON.stringify(fieldsOf(recommended, own))}; ` +
    `as the floor of quality adaptive: --quality-steps-min ${qualityStepsMin}\n`
  );
}

function fieldsOf({ budget }: Tuned, own: Tuned): object {
  return {
    ...(budget.maxSteps === own.budget.maxSteps ? {} : { max_steps: budget.maxSteps }),
    ...(budget.threshold === own.budget.threshold ? {} : { threshold: budget.threshold }),
  };
}

export function curve(model: string, measured: readonly Tuned[]): string {
  const points = (kind: string) =>
    measured
      .filter(({ name }, i) => i === 0 || name.startsWith(kind))
      .map(({ stepsPerToken, bitsPerByte }) => [stepsPerToken, bitsPerByte] as const)
      .sort(([a], [b]) => a - b);
  return linePlot({
    title: `${model}: bits per byte over steps a token`,
    xLabel: 'steps a token',
    yLabel: 'bits per byte',
    yFrom: Math.min(...measured.map(({ bitsPerByte }) => bitsPerByte)),
    series: [
      { name: 'max_steps', points: points('max_steps') },
      { name: 'threshold', points: points('threshold') },
    ],
  });
}
