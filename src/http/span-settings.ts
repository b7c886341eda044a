/** What a request to a model with attention spans asks for beside its text. */
import type { Config } from '../config.js';
import type { SpanJob } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { readDeadline } from './budget.js';
import { assertFieldsFit } from './field-fit.js';
import type { ScoreBody } from './schemas.js';
import { type Caller, sessionKey } from './session-key.js';

export interface SpanSettings {
  /** In keys; null: the model's own spans. */
  readonly spanCap: number | null;
  /** Also score without the cap. */
  readonly spanCost: boolean;
  readonly topLogprobs: number;
  readonly returnTokens: boolean;
  readonly session: SpanJob['session'];
  /** null: no deadline. */
  readonly deadlineMs: number | null;
}

/**
 * Types and fixed ranges were checked by the schema; this checks what depends on the model and on other fields.
 * @throws ServerError INVALID_REQUEST
 */
export function spanSettings(
  body: ScoreBody,
  model: ModelDescription,
  config: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
  caller: Caller,
): SpanSettings {
  assertFieldsFit(body, model);
  const spanCap = readSpanCap(body, model);
  if (body.span_cost === true && spanCap === null) {
    throw new ServerError('INVALID_REQUEST', 'span_cost tells the cost of span_max: set that too', 'span_cost');
  }
  return {
    spanCap,
    spanCost: body.span_cost ?? false,
    topLogprobs: body.top_logprobs ?? 0,
    returnTokens: body.return_tokens ?? true,
    session: readSession(body, caller),
    deadlineMs: readDeadline(body.deadline_ms, config),
  };
}

/** @returns keys, null for the model's own spans. @throws ServerError INVALID_REQUEST */
export function readSpanCap({ span_max: cap }: Pick<ScoreBody, 'span_max'>, { span }: ModelDescription): number | null {
  const spanMax = span?.spanMax ?? 0;
  if (cap === undefined || cap <= spanMax) return cap ?? null;
  const message = `span_max must be an integer from 0 to ${spanMax} (the model's longest span), not ${cap}`;
  throw new ServerError('INVALID_REQUEST', message, 'span_max');
}

/** @throws ServerError INVALID_REQUEST */
function readSession(body: ScoreBody, caller: Caller): SpanJob['session'] {
  const { session, session_begin: begins = false, session_end: ends = false } = body;
  if (session === undefined) {
    const stray = begins ? 'session_begin' : 'session_end';
    if (begins || ends) throw new ServerError('INVALID_REQUEST', `${stray} needs session: name it`, stray);
    return null;
  }
  if (Array.isArray(body.input) && typeof body.input[0] !== 'number') {
    const message = 'a session is one stream: send one text, or one list of token ids';
    throw new ServerError('INVALID_REQUEST', message, 'input');
  }
  if (body.span_cost === true) {
    const message = 'span_cost scores a text twice, which a session cannot: leave it out, or score without session';
    throw new ServerError('INVALID_REQUEST', message, 'span_cost');
  }
  return { key: sessionKey(session, caller), continues: !begins, ends };
}
