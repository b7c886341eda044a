/** What a completion asks for beside its prompts, checked against the model and the limits of the server. */
import { randomInt } from 'node:crypto';
import type { Config } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { nearest } from '../nearest.js';
import { readBudget, readDeadline } from './budget.js';
import type { ChoiceSettings } from './completion-choice.js';
import { CompletionBody, MAX_TOKENS_DEFAULT, STOP_UNITS_MAX, STOPS_MAX } from './completion-schemas.js';
import { assertFieldsFit } from './field-fit.js';
import type { Quality } from './quality.js';
import { budgetFields, spanFields } from './schemas.js';
import { readSpanCap } from './span-settings.js';
import { shorten } from './validation.js';

export interface CompletionSettings extends ChoiceSettings {
  readonly budget: Budget;
  readonly quality: Quality;
  readonly spanCap: number | null;
  readonly maxNewTokens: number;
  /** The client has named maxNewTokens; without, what the context has room for is fine. */
  readonly maxNewTokensNamed: boolean;
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number;
  readonly echo: boolean;
  readonly choices: number;
  /** null: no deadline. */
  readonly deadlineMs: number | null;
}

/** Seeds are drawn below this when none is given; a choice adds its place. */
const SEED_MAX = 2 ** 47;

/**
 * Fields of OpenAI's or vLLM's that would change the text and that this server does not have: better refused than ignored. Each with the
 * value that changes nothing.
 */
const UNSUPPORTED: Readonly<Record<string, (value: unknown, body: CompletionBody) => boolean>> = {
  suffix: (value) => value === '',
  best_of: (value, { n = 1 }) => value === n,
  logit_bias: (value) => typeof value === 'object' && Object.keys(value as object).length === 0,
  presence_penalty: (value) => value === 0,
  frequency_penalty: (value) => value === 0,
  repetition_penalty: (value) => value === 1,
  top_k: (value) => value === -1 || value === 0,
  min_p: (value) => value === 0,
  min_tokens: (value) => value === 0,
  use_beam_search: (value) => value === false,
};

/**
 * Types and fixed ranges were checked by the schema; this checks what depends on the model and on the options.
 * @throws ServerError INVALID_REQUEST
 */
export function completionSettings(
  body: CompletionBody,
  model: ModelDescription,
  config: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
): CompletionSettings {
  for (const [field, isNeutral] of Object.entries(UNSUPPORTED)) {
    const value = (body as Record<string, unknown>)[field];
    if (value === undefined || isNeutral(value, body)) continue;
    throw new ServerError('INVALID_REQUEST', `${field} is not supported: leave it out`, field);
  }
  if (body.stream_options !== undefined && body.stream !== true) {
    throw new ServerError('INVALID_REQUEST', 'stream_options goes with stream: true: leave it out', 'stream_options');
  }
  refuseMisspelt(body);
  // Here every model can stream.
  const { stream: _, ...fields } = body;
  assertFieldsFit(fields, model);
  return {
    budget: readBudget(body, model),
    quality: body.quality === 'adaptive' ? 'adaptive' : 'full',
    spanCap: readSpanCap(body, model),
    maxNewTokens: body.max_tokens ?? MAX_TOKENS_DEFAULT,
    maxNewTokensNamed: body.max_tokens !== undefined,
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    seed: body.seed ?? randomInt(SEED_MAX),
    echo: body.echo ?? false,
    logprobs: body.logprobs ?? null,
    withDepths: model.span === undefined,
    stops: stopsOf(body.stop),
    stopIds: body.ignore_eos === true || model.eosId < 0 ? [] : [model.eosId],
    choices: body.n ?? 1,
    deadlineMs: readDeadline(body.deadline_ms, config),
  };
}

/** Fields that OpenAI's completions do not have: what is spelt almost like one of them is meant for us. */
const OWN = [...Object.keys(budgetFields), 'span_max', 'quality', 'deadline_ms'];

/** Fields of `/v1/score` that mean nothing here. */
const SCORE_ONLY: readonly string[] = [...Object.keys(spanFields), 'stride', 'return_tokens'].filter(
  (field) => !(field in CompletionBody.properties),
);

/**
 * Fields that are nobody's are ignored, as OpenAI's servers do. But a budget that was misspelt, or that this endpoint lacks, would be spent
 * without a word.
 * @throws ServerError INVALID_REQUEST
 */
function refuseMisspelt(body: CompletionBody): void {
  for (const field of Object.keys(body)) {
    if (field in CompletionBody.properties || field in UNSUPPORTED) continue;
    if (field === 'max_completion_tokens') {
      const message = 'max_completion_tokens is a field of chat, which this server has not: did you mean max_tokens?';
      throw new ServerError('INVALID_REQUEST', message, field);
    }
    if (SCORE_ONLY.includes(field)) {
      throw new ServerError(
        'INVALID_REQUEST',
        `${field} is a field of POST /v1/score: leave it out, or ask there`,
        field,
      );
    }
    const meant = nearest(field, OWN);
    if (meant === null) continue;
    const shown = shorten(field);
    throw new ServerError('INVALID_REQUEST', `unknown field '${shown}': did you mean ${meant}?`, shown);
  }
}

function stopsOf(stop: CompletionBody['stop']): readonly string[] {
  const stops = stop === undefined ? [] : [stop].flat();
  if (stops.length > STOPS_MAX) {
    throw new ServerError(
      'INVALID_REQUEST',
      `stop holds ${stops.length} texts, at most ${STOPS_MAX} are allowed`,
      'stop',
    );
  }
  // An empty one would stop before the first token; clients send it for "none".
  const wanted = stops.filter((text) => text !== '');
  const long = wanted.find((text) => text.length > STOP_UNITS_MAX);
  if (long === undefined) return wanted;
  const message = `stop holds a text of ${long.length} characters, at most ${STOP_UNITS_MAX} are allowed`;
  throw new ServerError('INVALID_REQUEST', message, 'stop');
}
