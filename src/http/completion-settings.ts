/** What a completion asks for beside its prompts, checked against the model and the limits of the server. */
import { randomInt } from 'node:crypto';
import type { Config } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { readBudget, readDeadline } from './budget.js';
import type { ChoiceSettings } from './completion-choice.js';
import { type CompletionBody, MAX_TOKENS_DEFAULT, STOP_UNITS_MAX, STOPS_MAX } from './completion-schemas.js';

export interface CompletionSettings extends ChoiceSettings {
  readonly budget: Budget;
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
  if (body.span_max !== undefined && model.span === undefined) {
    const message = `span_max goes with models that have attention spans, which ${model.id} has not: leave it out`;
    throw new ServerError('INVALID_REQUEST', message, 'span_max');
  }
  return {
    budget: readBudget(body, model),
    spanCap: body.span_max ?? null,
    maxNewTokens: body.max_tokens ?? MAX_TOKENS_DEFAULT,
    maxNewTokensNamed: body.max_tokens !== undefined,
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    seed: body.seed ?? randomInt(SEED_MAX),
    echo: body.echo ?? false,
    logprobs: body.logprobs ?? null,
    stops: stopsOf(body.stop),
    stopIds: body.ignore_eos === true || model.eosId < 0 ? [] : [model.eosId],
    choices: body.n ?? 1,
    deadlineMs: readDeadline(body.deadline_ms, config),
  };
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
