/** What a request asks for beside its text, checked against the model and the limits of the server. */
import type { Config } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import { atMost, readBudget, readDeadline } from './budget.js';
import { assertFieldsFit } from './field-fit.js';
import type { Quality } from './quality.js';
import type { ScoreBody } from './schemas.js';

export interface ScoreSettings {
  readonly budget: Budget;
  readonly quality: Quality;
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
  assertFieldsFit(body, model);
  const windowTokens = model.contextTokens - 1;
  const stride = body.stride ?? Math.max(1, Math.floor(model.contextTokens / 2));
  return {
    budget: readBudget(body, model),
    quality: body.quality === 'adaptive' ? 'adaptive' : 'full',
    topLogprobs: atMost('top_logprobs', body.top_logprobs ?? 0, model.vocabularySize, "the model's vocabulary"),
    returnTokens: body.return_tokens ?? true,
    windowTokens,
    strideTokens: atMost('stride', stride, windowTokens, "the model's context less one"),
    deadlineMs: readDeadline(body.deadline_ms, config),
  };
}
