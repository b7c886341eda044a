/** Fields that mean something to one family only: refused for the other, because ignoring them would hide a mistake. */
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { type ScoreBody, spanFields } from './schemas.js';

const DEPTH_FIELDS = ['max_steps', 'min_steps', 'threshold', 'quality', 'stride'] as const;

/** @throws ServerError INVALID_REQUEST, naming the first field that the model has no use for */
export function assertFieldsFit(body: Partial<ScoreBody>, { id, span }: ModelDescription): void {
  const given = (field: string): boolean => (body as Record<string, unknown>)[field] !== undefined;
  if (span === undefined) {
    const odd = Object.keys(spanFields).find(given);
    if (odd === undefined) return;
    const message = `${odd} is for models with attention spans, which ${id} has not: leave it out or name another model`;
    throw new ServerError('INVALID_REQUEST', message, odd);
  }
  const odd = DEPTH_FIELDS.find(given);
  if (odd === undefined) return;
  const remedy =
    odd === 'stride'
      ? 'it reads a text of any length as one: leave it out'
      : 'leave it out, or cap its spans with span_max';
  const what = odd === 'stride' ? 'windows' : 'adaptive depth';
  throw new ServerError('INVALID_REQUEST', `${odd} is for models with ${what}, which ${id} has not: ${remedy}`, odd);
}
