/**
 * `ponder-serve score FILE`: the engine without the server. It makes the same windows, runs the same loop and computes the same
 * sums as POST /v1/score; `--json` is that endpoint's reply.
 */
import { stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { type Config, parseConfig } from '../config.js';
import { startEngine } from '../engine/start.js';
import { ServerError } from '../errors.js';
import type { ScoreBody } from '../http/schemas.js';
import { type ScoreSettings, scoreSettings } from '../http/score-settings.js';
import { writeSpanReply } from '../http/span-reply.js';
import { spanSettings } from '../http/span-settings.js';
import type { ModelDescription } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import { chooseModel } from './choose-model.js';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  type OutputStream,
  type ParsedFlags,
  parseFlags,
  runCommand,
  UsageError,
  write,
} from './command.js';
import { assertDepthsDiffer, colourDepth, renderHeatmap, renderLegend } from './heatmap.js';
import { Progress } from './progress.js';
import { assertReadable, readText, shownName } from './read-text.js';
import { renderLines, renderSummary } from './score-report.js';
import { type SpanModel, scoreFile, scoreLines } from './score-spans.js';
import {
  type FileText,
  orCommandError,
  orStopped,
  type ScoredTexts,
  type ScoringDependencies,
  scoreTexts,
  UNLIMITED,
} from './score-texts.js';
import { renderSpanLines, renderSpanSummary } from './span-report.js';

const FLAGS = {
  model: 'value',
  'max-steps': 'value',
  'min-steps': 'value',
  threshold: 'value',
  stride: 'value',
  'span-max': 'value',
  'span-cost': 'switch',
  lines: 'switch',
  json: 'switch',
  heatmap: 'switch',
  help: 'switch',
} as const;
type Flags = ParsedFlags<typeof FLAGS>['values'];

const ABILITY = { task: 'score', does: 'scores text', doesNot: 'does not score text' } as const;

export const USAGE = `Usage: ponder-serve score FILE|- [options]

Scores a text: log-probability, bits per byte and perplexity, and the depth that each token took or how far its heads looked
back. A model with attention spans reads a file of any length piece by piece.

  --model NAME       package to use (default: the only one that scores text, or the only one of those without attention spans)
  --max-steps N      step at which every position that still runs is stopped (default: the model's maximum)
  --min-steps N      no position halts before this step (default: 1)
  --threshold X      halting sum above which a position halts, above 0 and up to 1 (default: the model's)
  --stride N         tokens between the beginnings of two windows of a long text (default: half the context)
  --span-max N       cap the span of every head at N keys, for models with attention spans (default: none)
  --span-cost        also score without that cap, and tell what it cost
  --lines            score each line by itself; empty lines are left out
  --json             the reply of POST /v1/score, for machines
  --heatmap          the text with each token coloured by its depth (NO_COLOR and FORCE_COLOR are honoured)

Every option of the engine works too (--models, --precision, --threads, --backend; see ponder-serve serve --help).
`;

/** What the command needs of the world; tests bring their own. */
export interface ScoreDependencies extends ScoringDependencies {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly loadModels: typeof loadModels;
}

export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal = new AbortController().signal,
  world: ScoreDependencies = { env: process.env, loadModels, loadTokenizer, startEngine },
): Promise<number> {
  return runCommand('score', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [file, ...more] = positionals;
    if (file === undefined) throw new UsageError('FILE is missing: give a path, or - for standard input');
    if (more.length > 0) throw new UsageError(`one FILE at a time, not also ${more.join(' ')}`);
    if (values.json !== undefined && values.heatmap !== undefined) {
      throw new UsageError('--json and --heatmap exclude each other: choose one');
    }
    const body = budgetOf(values);
    const config = parseConfig(serverOptions, world.env);
    await assertReadable(file);
    const model = await chooseModel(config, values.model, ABILITY, world.loadModels);
    if (model.span !== undefined) {
      await scoreWithSpans({ file, model: { ...model, span: model.span }, config, body, values, stop }, io, world);
      return EXIT.ok;
    }
    const settings = settingsFor(model, body, config);
    const texts = splitTexts(await readText(file, io.stdin), file, values.lines !== undefined);
    const scored = await scoreTexts({ texts, model, settings, config }, io.stderr, stop, world);
    await report(scored, model, values, io, world);
    return EXIT.ok;
  });
}

type Body = Partial<Pick<ScoreBody, 'max_steps' | 'min_steps' | 'stride' | 'threshold' | 'span_max' | 'span_cost'>>;

function budgetOf(values: Flags): Body {
  const counts = {
    max_steps: countFlag('max-steps', values['max-steps']),
    min_steps: countFlag('min-steps', values['min-steps']),
    stride: countFlag('stride', values.stride),
    threshold: thresholdFlag(values.threshold),
    span_max: values['span-max'] === '0' ? 0 : countFlag('span-max', values['span-max']),
    span_cost: values['span-cost'] === undefined ? undefined : true,
  };
  return Object.fromEntries(Object.entries(counts).filter(([, value]) => value !== undefined));
}

function thresholdFlag(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const threshold = /^(\d+\.?\d*|\.\d+)(e-?\d+)?$/.test(value) ? Number(value) : Number.NaN;
  if (threshold > 0 && threshold <= 1) return threshold;
  throw new UsageError(`--threshold must be a number above 0 and up to 1, not '${value}'`);
}

/** A budget that the model can't serve is a mistake on the command line. */
function settingsFor(model: ModelDescription, body: Body, config: Config): ScoreSettings {
  return orUsageError(() => scoreSettings({ input: '', ...body }, model, config));
}

function orUsageError<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    const fields = /\b(max_steps|min_steps|span_max|span_cost)\b/g;
    const flags = error.message.replace(fields, (field) => `--${field.replace('_', '-')}`);
    throw new UsageError(flags.replace(/^(stride|threshold)\b/, '--$1'));
  }
}

interface SpanScoringOrder {
  readonly file: string;
  readonly model: SpanModel;
  readonly config: Config;
  readonly body: Body;
  readonly values: Flags;
  readonly stop: AbortSignal;
}

async function scoreWithSpans(
  { file, model, config, body, values, stop }: SpanScoringOrder,
  io: CommandIo,
  world: ScoreDependencies,
): Promise<void> {
  if (values.heatmap !== undefined) assertDepthsDiffer(model);
  const settings = orUsageError(() => spanSettings({ input: '', ...body }, model, config, { headers: {}, key: null }));
  const [byLine, json] = [values.lines !== undefined, values.json !== undefined];
  const held = byLine || json ? splitTexts(await readText(file, io.stdin), file, byLine) : null;
  const tokenizer = await orCommandError(world.loadTokenizer(model.folder, model.vocabularySize));
  // Two streams at most: with a cap and without.
  const lanes = { spanLanesMax: Math.max(3, config.spanLanesMax), sessionsMax: 2 };
  const engine = await orCommandError(world.startEngine({ ...config, ...UNLIMITED, ...lanes }, [model]));
  const progress = new Progress(io.stderr, 'scoring', await lengthOf(file, held));
  const scorer = {
    engine,
    model,
    settings,
    blockTokens: config.spanBlockTokens,
    stop,
    onProgress: (done: number) => progress.update(done),
  };
  try {
    if (held === null) {
      const reply = await orStopped(stop, scoreFile(scorer, file, io.stdin));
      progress.end();
      await write(io.stdout, renderSpanSummary(reply, model));
      return;
    }
    const scoring = await orStopped(stop, scoreLines(scorer, held, tokenizer));
    progress.end();
    if (json) return await writeJson(io.stdout, await writeSpanReply(scoring, true, 0, tokenizer));
    await write(io.stdout, renderSpanLines(scoring.reply, held, io.stdout.columns ?? 100));
    await write(io.stdout, renderSpanSummary(scoring.reply, model));
  } finally {
    progress.end();
    await engine.drain(0);
  }
}

/** Bytes to score, for the progress; 0 where a pipe does not say. */
async function lengthOf(file: string, held: readonly FileText[] | null): Promise<number> {
  if (held !== null) return held.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  return file === '-' ? 0 : ((await stat(file).catch(() => null))?.size ?? 0);
}

async function writeJson(stdout: OutputStream, json: string | Readable): Promise<void> {
  if (typeof json === 'string') await write(stdout, json);
  else for await (const piece of json) await write(stdout, String(piece));
  await write(stdout, '\n');
}

function splitTexts(text: string, file: string, byLine: boolean): FileText[] {
  const inputs = byLine
    ? text.split(/\r?\n/).map((line, index) => ({ index, text: line, param: `line ${index + 1}` }))
    : [{ index: 0, text, param: file }];
  const filled = inputs.filter((input) => input.text !== '');
  if (filled.length === 0) throw new CommandError(`${shownName(file)} is empty: there is nothing to score`);
  return filled;
}

async function report(
  scored: ScoredTexts,
  model: ModelDescription,
  values: Flags,
  { stdout }: CommandIo,
  { env }: ScoreDependencies,
): Promise<void> {
  const { texts, inputs, reply } = scored;
  if (values.json !== undefined) {
    await writeJson(stdout, await scored.writeJson());
    return;
  }
  if (values.heatmap !== undefined) {
    const colours = colourDepth(stdout.isTTY === true, env);
    await write(stdout, renderLegend(model.maxSteps, colours));
    for (const [i, { encoded, results }] of inputs.entries()) {
      const depths = results.flatMap((result) => [...result.depths]);
      const heatmap = { text: texts[i]?.text ?? '', offsets: encoded.offsets, depths, maxSteps: model.maxSteps };
      await write(stdout, renderHeatmap(heatmap, colours));
    }
    await write(stdout, '\n');
  }
  if (values.lines !== undefined && values.heatmap === undefined) {
    await write(stdout, renderLines(reply, inputs, texts, stdout.columns ?? 100));
  }
  await write(stdout, renderSummary(reply, model));
}
