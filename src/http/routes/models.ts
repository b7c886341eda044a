import type { ModelDescription } from '../../models/description.js';
import type { App } from '../app.js';
import { type ModelTable, modelNamed } from '../model-table.js';
import { ErrorReply, type ModelDetail, ModelDetail as ModelDetailSchema, ModelList, ModelParams } from '../schemas.js';

/** `GET /v1/models` in the shape that OpenAI's clients read, with what is particular to these models beside it. */
export function modelRoutes(app: App, models: ModelTable): void {
  app.get(
    '/v1/models',
    { schema: { summary: 'The models served', tags: ['models'], response: { 200: ModelList } } },
    async () => ({ object: 'list' as const, data: models.served().map(modelDetail) }),
  );
  app.get(
    '/v1/models/:id',
    {
      schema: {
        summary: 'One model: halting settings, provenance, measured quality',
        tags: ['models'],
        params: ModelParams,
        response: { 200: ModelDetailSchema, 404: ErrorReply },
      },
    },
    async (request) => modelDetail(modelNamed(models, request.params.id)),
  );
}

function modelDetail(model: ModelDescription): ModelDetail {
  return {
    id: model.id,
    object: 'model',
    created: model.createdAtUnix,
    owned_by: 'ponder-serve',
    max_model_len: model.contextTokens,
    family: model.family,
    task: model.task,
    language: model.language,
    precision: model.precision,
    vocabulary_size: model.vocabularySize,
    parameters: model.parameters,
    halting: { max_steps: model.maxSteps, threshold: model.threshold },
    provenance: { ...model.provenance },
    quality: { ...model.quality },
  };
}
