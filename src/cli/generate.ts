/**
 * `ponder-serve generate PROMPT`: the engine without the server, writing on as the model says it. Settings, stop strings and sums are
 * those of POST /v1/completions; `--json` is that endpoint's reply.
 */
import { type Config, parseConfig } from '../config.js';
import type { Engine } from '../engine/engine.js';
import { startEngine } from '../engine/start.js';
import { ServerError } from '../errors.js';
import { type Prompt, readPrompts } from '../http/completion-prompts.js';
import { writeChoice, writeCompletion } from '../http/completion-reply.js';
import { type Completion, runCompletion } from '../http/completion-run.js';
import type { CompletionBody } from '../http/completion-schemas.js';
import { type CompletionSettings, completionSettings } from '../http/completion-settings.js';
import type { ModelDescription } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import type { Tokenizer } from '../tokenize/types.js';
import { chooseModel } from './choose-model.js';
import {
  type CommandIo,
  countFlag,
  decimalFlag,
  EXIT,
  orCommandError,
  type ParsedFlags,
  parseFlags,
  runCommand,
  Stopped,
  UsageError,
  write,
} from './command.js';
import { assertDepthsDiffer } from './heatmap.js';
import { assertReadable, readText } from './read-text.js';
import { Speaker } from './speaker.js';

const FLAGS = {
  model: 'value',
  file: 'value',
  'max-tokens': 'value',
  temperature: 'value',
  'top-p': 'value',
  seed: 'value',
  stop: 'value',
  'ignore-eos': 'switch',
  'max-steps': 'value',
  'min-steps': 'value',
  threshold: 'value',
  'span-max': 'value',
  heatmap: 'switch',
  json: 'switch',
  help: 'switch',
} as const;
type Flags = ParsedFlags<typeof FLAGS>['values'];

const MAX_TOKENS_DEFAULT = 64;
const ABILITY = { task: 'score', does: 'continues texts', doesNot: 'does not continue texts' } as const;

export const USAGE = `Usage: ponder-serve generate PROMPT [options]
       ponder-serve generate --file FILE|- [options]

Continues a text, and writes what the model says as it says it.

  --model NAME       package to use (default: the only one that continues texts, or the only one of those without attention spans)
  --file FILE        read the prompt from there, or from standard input if it is -
  --max-tokens N     new tokens at most (default: ${MAX_TOKENS_DEFAULT}, or what the context has room for)
  --temperature X    0 takes the best token each time, more is more varied, up to 2 (default: 0)
  --top-p X          draw from the fewest tokens whose probabilities reach this, above 0 and up to 1 (default: 1)
  --seed N           the same seed draws the same text (default: a new one each time)
  --stop TEXT        end before this text
  --ignore-eos       go on after the end of a text
  --max-steps N      step at which every position that still runs is stopped (default: the model's maximum)
  --min-steps N      no position halts before this step (default: 1)
  --threshold X      halting sum above which a position halts, above 0 and up to 1 (default: the model's)
  --span-max N       keys that a head looks back at most, for a model with attention spans
  --heatmap          each new token coloured by its depth (NO_COLOR and FORCE_COLOR are honoured)
  --json             the reply of POST /v1/completions, for machines

Every option of the engine works too (--models, --precision, --threads, --backend; see ponder-serve serve --help).
`;

/** What the command needs of the world; tests bring their own. */
export interface GenerateWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly loadModels: typeof loadModels;
  readonly loadTokenizer: (folder: string, vocabularySize: number) => Promise<Tokenizer>;
  readonly startEngine: (config: Config, models: readonly ModelDescription[]) => Promise<Engine>;
}

interface Task {
  readonly model: ModelDescription;
  readonly settings: CompletionSettings;
  readonly config: Config;
  readonly prompt: string;
  readonly values: Flags;
}

export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
  world: GenerateWorld = { env: process.env, loadModels, loadTokenizer, startEngine },
): Promise<number> {
  return runCommand('generate', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [text, ...more] = positionals;
    if ((text === undefined) === (values.file === undefined)) {
      throw new UsageError('one prompt is needed: give a text, or --file FILE, or --file - for standard input');
    }
    if (more.length > 0) throw new UsageError(`one prompt at a time, not also ${more.join(' ')}: put it in quotes`);
    if (values.json !== undefined && values.heatmap !== undefined) {
      throw new UsageError('--json and --heatmap exclude each other: choose one');
    }
    const body = bodyOf(values);
    const config = parseConfig(serverOptions, world.env);
    if (values.file !== undefined) await assertReadable(values.file);
    const model = await chooseModel(config, values.model, ABILITY, world.loadModels);
    if (values.heatmap !== undefined) assertDepthsDiffer(model);
    const settings = settingsFor(model, body, config);
    const prompt = text ?? (await readText(values.file as string, io.stdin));
    await generate({ model, settings, config, prompt, values }, io, stop, world);
    return EXIT.ok;
  });
}

function bodyOf(values: Flags): Omit<CompletionBody, 'prompt'> {
  const given = {
    max_tokens: countFlag('max-tokens', values['max-tokens']),
    temperature: decimalFlag('temperature', values.temperature, 'a number from 0 to 2', (x) => x <= 2) ?? 0,
    top_p: decimalFlag('top-p', values['top-p'], 'a number above 0 and up to 1', (x) => x > 0 && x <= 1),
    seed: seedFlag(values.seed),
    stop: values.stop,
    ignore_eos: values['ignore-eos'] === undefined ? undefined : true,
    max_steps: countFlag('max-steps', values['max-steps']),
    min_steps: countFlag('min-steps', values['min-steps']),
    threshold: decimalFlag('threshold', values.threshold, 'a number above 0 and up to 1', (x) => x > 0 && x <= 1),
    span_max: countFlag('span-max', values['span-max']),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function seedFlag(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (/^\d{1,15}$/.test(value)) return Number(value);
  throw new UsageError(`--seed must be a whole number of at most 15 digits, not '${value}'`);
}

/** What the model can't serve is a mistake on the command line. */
function settingsFor(
  model: ModelDescription,
  body: Omit<CompletionBody, 'prompt'>,
  config: Config,
): CompletionSettings {
  try {
    const settings = completionSettings({ prompt: '', ...body }, model, config);
    return settings.maxNewTokensNamed ? settings : { ...settings, maxNewTokens: MAX_TOKENS_DEFAULT };
  } catch (error) {
    throw error instanceof ServerError ? new UsageError(withFlags(error.message)) : error;
  }
}

function withFlags(message: string): string {
  return message.replace(
    /\b(max_tokens|max_steps|min_steps|span_max|top_p)\b/g,
    (field) => `--${field.replaceAll('_', '-')}`,
  );
}

async function generate(task: Task, io: CommandIo, stop: AbortSignal, world: GenerateWorld): Promise<void> {
  const { model, settings, config, values } = task;
  const tokenizer = await orCommandError(world.loadTokenizer(model.folder, model.vocabularySize));
  const prompts = await orUsageError(readPrompts(task.prompt, model, tokenizer, settings, config, stop));
  const engine = await orCommandError(world.startEngine(config, [model]));
  try {
    const exit = { signal: stop, startedAtMs: performance.now() };
    const heatmap = values.heatmap === undefined ? null : { maxSteps: model.maxSteps, env: world.env };
    const writer = values.json === undefined ? new Speaker(settings, tokenizer, heatmap, io) : null;
    const order = { model, prompts, settings, tokenizeMs: 0, ...(writer === null ? {} : { listener: writer }) };
    const completion = await runCompletion({ engine, observer: { completed: () => {} } }, exit, order);
    if (writer !== null) await writer.finish(completion);
    else await writeJson(task, prompts, completion, tokenizer, io);
  } catch (error) {
    throw stop.aborted ? new Stopped() : error;
  } finally {
    await engine.drain(0);
  }
}

async function writeJson(
  { model, settings }: Task,
  prompts: readonly Prompt[],
  { sequences, usage, ponder }: Completion,
  tokenizer: Tokenizer,
  { stdout }: CommandIo,
): Promise<void> {
  const choices = [];
  for (const [index, sequence] of sequences.entries()) {
    choices.push(
      await writeChoice(index, settings.echo ? (prompts[index] ?? null) : null, sequence, tokenizer, settings),
    );
  }
  const created = Math.floor(Date.now() / 1000);
  const head = { id: 'cmpl-cli', object: 'text_completion', created, model: model.id };
  const tail = model.span === undefined ? { usage, ponder } : { usage };
  const json = await writeCompletion(head, choices, tail, settings.logprobs);
  if (typeof json === 'string') await write(stdout, json);
  else for await (const piece of json) await write(stdout, String(piece));
  await write(stdout, '\n');
}

async function orUsageError<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof ServerError ? new UsageError(withFlags(error.message)) : error;
  }
}
