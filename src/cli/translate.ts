/**
 * `ponder-serve translate FILE`: the engine without the server, for texts as long as a book. Sentences are written as they are
 * done and nothing but a window of them is held; with --output a broken run goes on where it stopped.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BEAM_MAX, type Config, parseConfig } from '../config.js';
import type { Engine } from '../engine/engine.js';
import { startEngine } from '../engine/start.js';
import { ServerError } from '../errors.js';
import type { TranslateBody } from '../http/translate-schemas.js';
import { translateSettings } from '../http/translate-settings.js';
import type { ModelDescription } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import { documentSentences } from '../translate/document.js';
import { translateStream } from '../translate/translate-stream.js';
import type { TranslateSettings } from '../translate/types.js';
import { VERSION } from '../version.js';
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
import { Progress } from './progress.js';
import { assertReadable, readText } from './read-text.js';
import type { JournalHeader } from './translate-journal.js';
import { assertWritable, type TranslateOutput, toFile, toStream } from './translate-output.js';

const FLAGS = {
  model: 'value',
  beam: 'value',
  alternatives: 'value',
  'length-penalty': 'value',
  'max-new-tokens': 'value',
  'max-steps': 'value',
  'min-steps': 'value',
  threshold: 'value',
  format: 'value',
  output: 'value',
  jsonl: 'switch',
  help: 'switch',
} as const;
type Flags = ParsedFlags<typeof FLAGS>['values'];

export const USAGE = `Usage: ponder-serve translate FILE|- [options]

Translates a text sentence by sentence; white space, line breaks and what is no language stay as they are.

  --model NAME          package to use (default: the only one that translates)
  --beam N              hypotheses searched at a time, 1 to ${BEAM_MAX} (default: one more than --alternatives, so 1, greedy)
  --alternatives N      further translations of each sentence in --jsonl, below --beam (default: 0)
  --length-penalty X    a hypothesis scores its log-probability over length^X (default: 1)
  --max-new-tokens N    tokens of a sentence's translation at most (default: twice the source's and 16)
  --max-steps N         step at which every position that still runs is stopped (default: the model's maximum)
  --min-steps N         no position halts before this step (default: 1)
  --threshold X         halting sum above which a position halts, above 0 and up to 1 (default: the model's)
  --format text|html    html: tags stay where they are, only text between them is translated (default: text)
  --output FILE         write there. An interrupted run keeps what it did in FILE.part, and the same command goes on
                        from there
  --jsonl               a JSON object for each sentence: index, offset, source, text, depths, cost

Every option of the engine works too (--models, --precision, --threads, --backend; see ponder-serve serve --help).
`;

const ABILITY = { task: 'translate', does: 'translates', doesNot: 'does not translate' } as const;

/** The queue is the command's own: nothing is refused for its length or its wait. */
const UNLIMITED = { queueLanesMax: 1_000_000, queueTokensMax: 2 ** 31, queueWaitMsMax: 2 ** 31 - 1 };

/** What the command needs of the world; tests bring their own. */
export interface TranslateWorld {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly loadModels: typeof loadModels;
  readonly loadTokenizer: typeof loadTokenizer;
  readonly startEngine: (config: Config, models: readonly ModelDescription[]) => Promise<Engine>;
}

export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
  world: TranslateWorld = { env: process.env, loadModels, loadTokenizer, startEngine },
): Promise<number> {
  return runCommand('translate', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [file, ...more] = positionals;
    if (file === undefined) throw new UsageError('FILE is missing: give a path, or - for standard input');
    if (more.length > 0) throw new UsageError(`one FILE at a time, not also ${more.join(' ')}`);
    const body = bodyOf(values);
    if ((body.alternatives ?? 0) > 0 && values.jsonl === undefined) {
      throw new UsageError('--alternatives are written by --jsonl alone: add it, or leave --alternatives out');
    }
    const config = parseConfig(serverOptions, world.env);
    await assertReadable(file);
    if (values.output !== undefined) assertWritable(values.output, file, io.stdin);
    const model = await chooseModel(config, values.model, ABILITY, world.loadModels);
    const settings = settingsFor(model, body);
    const text = await readText(file, io.stdin);
    const output =
      values.output === undefined
        ? toStream(io, values.jsonl !== undefined)
        : await toFile(values.output, values.jsonl !== undefined, await headerOf(text, settings, model, values));
    await translate({ text, model, settings, config, output }, io, stop, world);
    return EXIT.ok;
  });
}

function bodyOf(values: Flags): TranslateBody {
  const given = {
    beam: within('beam', countFlag('beam', values.beam), BEAM_MAX),
    alternatives: within(
      'alternatives',
      values.alternatives === '0' ? 0 : countFlag('alternatives', values.alternatives),
      BEAM_MAX - 1,
    ),
    length_penalty: decimalFlag('length-penalty', values['length-penalty'], 'a number from 0 to 5', (x) => x <= 5),
    max_new_tokens: countFlag('max-new-tokens', values['max-new-tokens']),
    max_steps: countFlag('max-steps', values['max-steps']),
    min_steps: countFlag('min-steps', values['min-steps']),
    threshold: decimalFlag('threshold', values.threshold, 'a number above 0 and up to 1', (x) => x > 0 && x <= 1),
    format: formatFlag(values.format),
  };
  return { input: '', ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) };
}

function within(flag: string, value: number | undefined, max: number): number | undefined {
  if (value === undefined || value <= max) return value;
  throw new UsageError(`--${flag} must be at most ${max}, not ${value}`);
}

function formatFlag(value: string | undefined): 'text' | 'html' | undefined {
  if (value === undefined || value === 'text' || value === 'html') return value;
  throw new UsageError(`--format must be text or html, not '${value}'`);
}

/** What the model can't serve is a mistake on the command line. */
function settingsFor(model: ModelDescription, body: TranslateBody): TranslateSettings {
  try {
    return translateSettings(body, model);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    const fields = /\b(max_steps|min_steps|max_new_tokens|alternatives|beam)\b/g;
    throw new UsageError(error.message.replace(fields, (field) => `--${field.replaceAll('_', '-')}`));
  }
}

/** Everything that the output depends on. */
async function headerOf(
  text: string,
  settings: TranslateSettings,
  model: ModelDescription,
  { jsonl }: Flags,
): Promise<JournalHeader> {
  const { encoderBudget, beam, alternatives, lengthPenalty, maxNewTokens, format } = settings;
  return {
    input: { sha256: createHash('sha256').update(text).digest('hex'), bytes: Buffer.byteLength(text) },
    settings: {
      version: VERSION,
      model: model.id,
      precision: model.precision,
      package: await packageHash(model),
      beam,
      alternatives,
      'length-penalty': lengthPenalty,
      'max-new-tokens': maxNewTokens,
      'max-steps': encoderBudget.maxSteps,
      'min-steps': encoderBudget.minSteps,
      threshold: encoderBudget.threshold,
      format,
      output: jsonl === undefined ? 'text' : 'jsonl',
    },
  };
}

/** The manifest has the hashes of all files. */
async function packageHash({ folder }: ModelDescription): Promise<string | null> {
  try {
    return createHash('sha256')
      .update(await readFile(join(folder, 'manifest.json')))
      .digest('hex')
      .slice(0, 16);
  } catch {
    return null;
  }
}

interface Task {
  readonly text: string;
  readonly model: ModelDescription;
  readonly settings: TranslateSettings;
  readonly config: Config;
  readonly output: TranslateOutput;
}

async function translate(task: Task, { stderr }: CommandIo, stop: AbortSignal, world: TranslateWorld): Promise<void> {
  const { text, model, settings, config, output } = task;
  let engine: Engine | null = null;
  let progress: Progress | null = null;
  try {
    const tokenizer = await orCommandError(world.loadTokenizer(model.folder, model.vocabularySize));
    const total = await countSentences(text, settings.format, stop);
    engine = await orCommandError(world.startEngine({ ...config, ...UNLIMITED }, [model]));
    let done = output.done;
    const bar = new Progress(stderr, 'translating', total, undefined, { unit: 'sentences', doneBefore: done });
    progress = bar;
    await translateStream(
      { engine, tokenizer, model },
      [{ text }],
      settings,
      { signal: stop, deadlineAtMs: null, skipSentences: done },
      {
        sentence: async (delivered) => {
          await output.sentence(done, delivered);
          bar.update(++done);
        },
        untranslated: (_, whole) => output.untranslated(whole),
      },
    );
    await output.finish();
  } catch (error) {
    progress?.end();
    const kept = await output.interrupt();
    if (kept !== null) stderr.write(`${kept}\n`);
    throw stop.aborted ? new Stopped() : error;
  } finally {
    progress?.end();
    await engine?.drain(0);
  }
}

/** Segmentation is quick beside translation, and makes the progress true. */
async function countSentences(text: string, format: TranslateSettings['format'], stop: AbortSignal): Promise<number> {
  let count = 0;
  let pauses = 0;
  for (const sentence of documentSentences(text, format)) {
    if (sentence !== null) count++;
    else if (++pauses % 100 === 0) {
      await new Promise(setImmediate);
      if (stop.aborted) throw new Stopped();
    }
  }
  return count;
}
