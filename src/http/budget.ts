/** What a request may spend: steps, threshold and time, checked against the model and the limits of the server. */
import type { Config } from '../config.js';
import type { Budget } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';

/** The fields of a body, or of `encoder` and `decoder` within it. */
export interface BudgetFields {
  readonly max_steps?: number;
  readonly min_steps?: number;
  readonly threshold?: number;
}

/**
 * @param own fields that override `common`; errors call them `name.max_steps`
 * @throws ServerError INVALID_REQUEST
 */
export function readBudget(
  common: BudgetFields,
  model: Pick<ModelDescription, 'maxSteps' | 'threshold'>,
  own: BudgetFields = {},
  name = '',
): Budget {
  const called = (field: keyof BudgetFields): string => (own[field] === undefined ? field : `${name}.${field}`);
  const given = own.max_steps ?? common.max_steps;
  const maxSteps = atMost(called('max_steps'), given ?? model.maxSteps, model.maxSteps, "the model's maximum");
  const limit = given === undefined ? "the model's maximum" : called('max_steps');
  const minSteps = atMost(called('min_steps'), own.min_steps ?? common.min_steps ?? 1, maxSteps, limit);
  return { maxSteps, minSteps, threshold: own.threshold ?? common.threshold ?? model.threshold };
}

/** @returns milliseconds, null for no deadline. @throws ServerError INVALID_REQUEST */
export function readDeadline(
  deadlineMs: number | undefined,
  { deadlineMsDefault, deadlineMsMax }: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
): number | null {
  const ms = atMost('deadline_ms', deadlineMs ?? deadlineMsDefault, deadlineMsMax, '--deadline-ms-max');
  return ms === 0 ? null : ms;
}

/** @throws ServerError INVALID_REQUEST; the schema has checked the lower bound */
export function atMost(field: string, value: number, max: number, maxIs: string): number {
  if (value <= max) return value;
  throw new ServerError(
    'INVALID_REQUEST',
    `${field} must be an integer from 1 to ${max} (${maxIs}), not ${value}`,
    field,
  );
}
