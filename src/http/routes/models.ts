import type { Config } from '../../config.js';
import { laneCacheBytes, meanSpan } from '../../engine/span-keys.js';
import type { ModelDescription, SpanDescription } from '../../models/description.js';
import type { App, AppDeps } from '../deps.js';
import { limitsOf } from '../field-limits.js';
import { contextOf, type ModelTable, modelNamed } from '../model-table.js';
import { ErrorReply, type ModelDetail, ModelDetail as ModelDetailSchema, ModelList, ModelParams } from '../schemas.js';

/** `GET /v1/models` in the shape that OpenAI's clients read, with what is particular to these models beside it. */
export function modelRoutes(app: App, { config }: AppDeps, models: ModelTable): void {
  app.get(
    '/v1/models',
    { schema: { summary: 'The models served', tags: ['models'], response: { 200: ModelList } } },
    async () => ({ object: 'list' as const, data: models.served().map((model) => modelDetail(model, config)) }),
  );
  app.get(
    '/v1/models/:id',
    {
      schema: {
        summary: 'One model: task, languages, limits, halting settings, provenance, measured quality',
        tags: ['models'],
        params: ModelParams,
        response: { 200: ModelDetailSchema, 404: ErrorReply },
      },
    },
    async (request) => modelDetail(modelNamed(models, request.params.id), config),
  );
}

function modelDetail(model: ModelDescription, config: Config): ModelDetail {
  return {
    id: model.id,
    object: 'model',
    created: model.createdAtUnix,
    owned_by: 'ponder-serve',
    max_model_len: contextOf(model),
    family: model.family,
    task: model.task,
    language: model.language,
    target_language: model.targetLanguage,
    precision: model.precision,
    vocabulary_size: model.vocabularySize,
    parameters: model.parameters,
    limits: limitsOf(model, config),
    ...(model.span === undefined
      ? { halting: { max_steps: model.maxSteps, threshold: model.threshold } }
      : { span: spanOf(model.span, config) }),
    provenance: { ...model.provenance },
    quality: { ...model.quality },
  };
}

function spanOf(span: SpanDescription, { spanBlockTokens }: Config): NonNullable<ModelDetail['span']> {
  return {
    kind: span.kind,
    span_max: span.spanMax,
    ramp: span.ramp,
    mean: meanSpan(span, null),
    keys: span.keys.map((heads) => [...heads]),
    pools: span.groups.map((groups) => groups.map(({ heads, span: keys }) => ({ heads: [...heads], keys }))),
    block_tokens: spanBlockTokens,
    cache_bytes: laneCacheBytes(span, spanBlockTokens),
  };
}
