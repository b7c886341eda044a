/** One scoring from inputs to what is told of it; `/v1/score` and the other protocols differ only around it. */
import { monotonicMs } from '../clock.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { AppDeps } from './deps.js';
import { grantQuality, withGranted } from './quality.js';
import type { RequestExit } from './request-exit.js';
import type { ScoreReply } from './schemas.js';
import type { ScoreInput } from './score-input.js';
import { dealResults, type ScoredInput, summarize, usageOf } from './score-reply.js';
import type { ScoreSettings } from './score-settings.js';
import { tokenizeInputs, windowsOf } from './score-work.js';
import { roundMs } from './timing.js';
import { tokenizerOf } from './tokenizers.js';

export interface ScoreOrder {
  readonly model: ModelDescription;
  readonly inputs: readonly ScoreInput[];
  readonly settings: ScoreSettings;
}

export interface Scoring {
  /** Without tokens. */
  readonly reply: ScoreReply;
  readonly scored: readonly ScoredInput[];
}

/** @throws ServerError as `tokenizeInputs` and `Engine.score` do, and DEADLINE_EXCEEDED */
export async function runScore(
  { config, engine, tokenizers, observer }: AppDeps,
  exit: RequestExit,
  { model, inputs, settings }: ScoreOrder,
): Promise<Scoring> {
  if (model.span !== undefined) {
    const message = `model '${model.id}' has attention spans, which this endpoint does not tell of: use POST /v1/score`;
    throw new ServerError('INVALID_REQUEST', message, 'model');
  }
  const deadlineAtMs = settings.deadlineMs === null ? null : exit.startedAtMs + settings.deadlineMs;
  const { tenant } = exit;
  const bytes = inputs.reduce((sum, input) => sum + ('text' in input ? input.text.length : input.ids.length), 0);
  const foreseen = { kind: 'score', model: model.id, bytes, tenant, deadlineAtMs } as const;
  engine.refuseIfLate(foreseen);
  const granted = grantQuality(settings.quality, engine, foreseen, settings.budget, config);
  const tokenizeFromMs = monotonicMs();
  const tokenized = await tokenizeInputs(inputs, tokenizerOf(tokenizers, model), settings, config, exit.signal);
  const tokenizeMs = monotonicMs() - tokenizeFromMs;
  if (deadlineAtMs !== null && monotonicMs() > deadlineAtMs) {
    throw new ServerError('DEADLINE_EXCEEDED', 'the deadline passed while the text was tokenised: raise deadline_ms');
  }

  const { topLogprobs } = settings;
  const budget = withGranted(settings.budget, granted);
  const windows = windowsOf(tokenized);
  const outcome = await engine.score(
    { model: model.id, windows, budget, topLogprobs, deadlineAtMs, tenant },
    exit.signal,
  );

  const scored = dealResults(tokenized, outcome.windows);
  const results = scored.map((input, i) => summarize(i, input, model.maxSteps));
  const usage = usageOf(scored, model.maxSteps);
  const { queueMs, computeMs } = outcome;
  const totalMs = monotonicMs() - exit.startedAtMs;
  const histogram = sumColumns(results.map(({ ponder }) => ponder.histogram));
  observer.scored({ model: model.id, tokens: usage.tokens, histogram, queueMs, tokenizeMs, computeMs, totalMs });
  const timing = {
    queue_ms: roundMs(queueMs),
    tokenize_ms: roundMs(tokenizeMs),
    compute_ms: roundMs(computeMs),
    total_ms: roundMs(totalMs),
  };
  if (granted !== null) observer.granted(model.id, granted.lowered);
  return {
    reply: { model: model.id, results, usage, timing, ...(granted === null ? {} : { quality: granted }) },
    scored,
  };
}

function sumColumns(rows: readonly (readonly number[])[]): number[] {
  const sums: number[] = [];
  for (const row of rows) for (const [i, value] of row.entries()) sums[i] = (sums[i] ?? 0) + value;
  return sums;
}
