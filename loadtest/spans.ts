/**
 * `npm run loadtest -- spans`: what attention spans save in the engine. Two packages of the same shape, one with learned spans and one
 * whose heads look back as far as they can (`export/span_speed.py` writes such a pair), take turns in one process; ratios are taken round by
 * round.
 */
import { ratioSpread, type Spread } from '../src/cli/bench-arithmetic.js';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  parseFlags,
  runCommand,
  UsageError,
  write,
} from '../src/cli/command.js';
import { monotonicMs } from '../src/clock.js';
import { parseConfig } from '../src/config.js';
import type { Engine } from '../src/engine/engine.js';
import { headCount, keyMultiplications, meanSpan } from '../src/engine/span-keys.js';
import { startEngine } from '../src/engine/start.js';
import type { ModelDescription, SpanDescription } from '../src/models/description.js';
import { loadModels } from '../src/models/registry.js';

const FLAGS = {
  spans: 'value',
  full: 'value',
  tokens: 'value',
  rounds: 'value',
  json: 'switch',
  help: 'switch',
} as const;

const USAGE = `Usage: npm run loadtest -- spans --models FOLDER [options]

Compares a model with attention spans with its twin of full span, in one engine.

  --spans NAME    package with learned spans (default: paper-spans)
  --full NAME     its twin of full span (default: full-span)
  --tokens N      tokens of a text; whole blocks are best (default: 512)
  --rounds N      rounds; medians are quoted (default: 5)
  --json          everything, for machines

Every option of the engine works too (--threads, --precision, --span-block-tokens). One thread makes CPU time the work itself.
`;

interface Timed {
  readonly seconds: number;
  readonly cpuSeconds: number;
}

export function run(argv: string[], io: CommandIo, stop: AbortSignal = new AbortController().signal): Promise<number> {
  return runCommand('spans', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected ${positionals.join(' ')}`);
    const names = [values.spans ?? 'paper-spans', values.full ?? 'full-span'];
    const [tokens, rounds] = [countFlag('tokens', values.tokens) ?? 512, countFlag('rounds', values.rounds) ?? 5];
    // A lane of full span at S = 8192 holds hundreds of megabytes: one for each model.
    const config = { ...parseConfig(serverOptions, {}), spanLanesMax: 1, sessionsMax: 0 };
    const { models, refused } = await loadModels({ folder: config.models, only: names, precision: config.precision });
    if (refused.length > 0) throw new CommandError(refused.map(({ id, reason }) => `${id}: ${reason}`).join('; '));
    const [learned, full] = models.toSorted((a, b) => names.indexOf(a.id) - names.indexOf(b.id)).map(withSpan);
    if (learned === undefined || full === undefined) throw new UsageError('name two different packages');
    const engine = await startEngine(config, models);
    try {
      const timed: { spans: Timed[]; full: Timed[] } = { spans: [], full: [] };
      for (let round = -1; round < rounds; round++) {
        const spans = await time(engine, learned, tokens, stop);
        const fully = await time(engine, full, tokens, stop);
        if (round < 0) continue; // the first one warms up
        timed.spans.push(spans);
        timed.full.push(fully);
        io.stderr.write(`round ${round + 1}: ${(fully.cpuSeconds / spans.cpuSeconds).toFixed(2)} x by CPU time\n`);
      }
      const result = { tokens, rounds, threads: config.threads, ...compare(learned, full, timed), timed };
      await write(io.stdout, values.json !== undefined ? `${JSON.stringify(result, null, 1)}\n` : render(result));
      return EXIT.ok;
    } finally {
      await engine.drain(0);
    }
  });
}

type SpanModel = ModelDescription & { readonly span: SpanDescription };

function withSpan(model: ModelDescription): SpanModel {
  if (model.span === undefined) throw new UsageError(`${model.id} has no attention spans`);
  return { ...model, span: model.span };
}

/** One text, alone: what a block costs does not depend on what is in it. */
async function time(
  engine: Engine,
  { id, vocabularySize }: SpanModel,
  tokens: number,
  stop: AbortSignal,
): Promise<Timed> {
  const texts = [Int32Array.from({ length: tokens }, (_, i) => (i * 31) % vocabularySize)];
  const request = { model: id, texts, spanCap: null, topLogprobs: 0, session: null, deadlineAtMs: null };
  const before = process.cpuUsage();
  const startedAtMs = monotonicMs();
  await engine.scoreStream(request, stop);
  const { user, system } = process.cpuUsage(before);
  return { seconds: (monotonicMs() - startedAtMs) / 1000, cpuSeconds: (user + system) / 1e6 };
}

function compare(learned: SpanModel, full: SpanModel, timed: { spans: readonly Timed[]; full: readonly Timed[] }) {
  const cost = ({ span }: SpanModel) =>
    span.tokenMultiplications + meanSpan(span, null) * headCount(span) * keyMultiplications(span);
  const column = (of: keyof Timed): Spread =>
    ratioSpread(
      timed.full.map((one) => one[of]),
      timed.spans.map((one) => one[of]),
    );
  const attention = 1 - full.span.tokenMultiplications / cost(full);
  const bound = cost(full) / cost(learned);
  const byCpu = column('cpuSeconds');
  return {
    meanSpan: meanSpan(learned.span, null),
    spanMax: full.span.spanMax,
    attentionShare: attention,
    bound,
    byCpu,
    byTime: column('seconds'),
    shareOfBound: byCpu.median / bound,
  };
}

function render(
  result: ReturnType<typeof compare> & { readonly tokens: number; readonly rounds: number; threads: number },
) {
  const shown = ({ median, min, max }: Spread) => `${median.toFixed(2)} x (${min.toFixed(2)} to ${max.toFixed(2)})`;
  return [
    `mean span ${result.meanSpan.toFixed(0)} of ${result.spanMax} keys; texts of ${result.tokens} tokens, ${result.rounds} rounds, ${result.threads} threads`,
    `bound by multiplications ${result.bound.toFixed(2)} x (attention is ${(100 * result.attentionShare).toFixed(0)} % of full span)`,
    `by CPU time ${shown(result.byCpu)}, by time ${shown(result.byTime)}: ${result.shareOfBound.toFixed(2)} of the bound`,
    '',
  ].join('\n');
}
