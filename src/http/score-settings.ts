/** What a request asks for beside its text, checked against the model and the limits of the server. */
import type { Config } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { ScoreBody } from './schemas.js';

export interface ScoreSettings {
  readonly budget: Budget;
  readonly topLogprobs: number;
  readonly returnTokens: boolean;
  /** Tokens that one window holds (the context less `<s>`). */
  readonly windowTokens: number;
  /** Tokens between the beginnings of two windows. */
  readonly strideTokens: number;
  /** null: no deadline. */
  readonly deadlineMs: number | null;
}

/**
 * Types and fixed ranges were checked by the schema; this checks what depends on the model and on the options.
 * @throws ServerError INVALID_REQUEST
 */
export function scoreSettings(
  body: ScoreBody,
  model: ModelDescription,
  config: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
): ScoreSettings {
  const windowTokens = model.contextTokens - 1;
  const maxSteps = within('max_steps', body.max_steps ?? model.maxSteps, model.maxSteps, "the model's maximum");
  const minSteps = within(
    'min_steps',
    body.min_steps ?? 1,
    maxSteps,
    body.max_steps ? 'max_steps' : "the model's maximum",
  );
  const deadlineMs = within(
    'deadline_ms',
    body.deadline_ms ?? config.deadlineMsDefault,
    config.deadlineMsMax,
    '--deadline-ms-max',
  );
  return {
    budget: { maxSteps, minSteps, threshold: body.threshold ?? model.threshold },
    topLogprobs: within('top_logprobs', body.top_logprobs ?? 0, model.vocabularySize, "the model's vocabulary"),
    returnTokens: body.return_tokens ?? true,
    windowTokens,
    strideTokens: within(
      'stride',
      body.stride ?? Math.max(1, Math.floor(model.contextTokens / 2)),
      windowTokens,
      "the model's context less one",
    ),
    deadlineMs: deadlineMs === 0 ? null : deadlineMs,
  };
}

function within(field: string, value: number, max: number, maxIs: string): number {
  if (value <= max) return value;
  throw new ServerError(
    'INVALID_REQUEST',
    `${field} must be an integer from 1 to ${max} (${maxIs}), not ${value}`,
    field,
  );
}
