/** Upper limits of the fields of a request that depend on the model and on the options. */
import { BEAM_MAX, type Config } from '../config.js';
import type { ModelDescription } from '../models/description.js';
import { type ModelTable, modelFor, translationModel } from './model-table.js';
import { TOP_LOGPROBS_MAX } from './schemas.js';

/** As `/v1/models` tells them. */
export function limitsOf(
  { task, contextTokens, maxSteps, span }: ModelDescription,
  config: Config,
): Record<string, number> {
  const { inputsMax, textBytesMax, deadlineMsMax } = config;
  if (span !== undefined) {
    const { bodyBytesMax, sessionsMax, sessionIdleMsMax } = config;
    return {
      inputs: inputsMax,
      text_bytes: bodyBytesMax,
      deadline_ms: deadlineMsMax,
      top_logprobs: TOP_LOGPROBS_MAX,
      span_max: span.spanMax,
      sessions: sessionsMax,
      session_idle_ms: sessionIdleMsMax,
    };
  }
  const common = { inputs: inputsMax, text_bytes: textBytesMax, max_steps: maxSteps, deadline_ms: deadlineMsMax };
  switch (task) {
    case 'score':
      return { ...common, top_logprobs: TOP_LOGPROBS_MAX, stride: contextTokens - 1 };
    case 'translate':
      return { ...common, beam: BEAM_MAX, alternatives: BEAM_MAX - 1, max_new_tokens: contextTokens };
    default:
      return task satisfies never;
  }
}

/**
 * Of the model that a body means, for errors about its other fields: the schema that found them knows no model. Empty when the body does
 * not say which, for its own error is then the next one.
 */
export function limitsMeant(path: string, body: unknown, models: ModelTable, config: Config): Record<string, number> {
  const { model, source, target } = (body ?? {}) as Record<string, unknown>;
  const named = (name: unknown): string | undefined => (typeof name === 'string' ? name : undefined);
  try {
    const meant = path.endsWith('/translate')
      ? translationModel(models, only({ model: named(model), source: named(source), target: named(target) }))
      : modelFor('score', models, named(model));
    const { max_steps, ...limits } = limitsOf(meant, config);
    return max_steps === undefined ? limits : { ...limits, max_steps, min_steps: max_steps };
  } catch {
    return {};
  }
}

function only(
  fields: Record<'model' | 'source' | 'target', string | undefined>,
): Parameters<typeof translationModel>[1] {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
