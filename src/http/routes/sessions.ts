import type { App, AppDeps } from '../deps.js';
import { type ModelTable, spanModel } from '../model-table.js';
import { ErrorReply } from '../schemas.js';
import { sessionKey } from '../session-key.js';
import { SessionEnded, SessionParams, SessionQuery } from '../span-schemas.js';

/** `DELETE /v1/sessions/{key}`: sessions are opened and continued by scoring; this frees the cache of one before it expires. */
export function sessionRoutes(app: App, { engine, admission }: AppDeps, models: ModelTable): void {
  app.delete(
    '/v1/sessions/:key',
    {
      schema: {
        summary: 'Ends a session of scoring, and frees its cache',
        tags: ['score'],
        params: SessionParams,
        querystring: SessionQuery,
        response: { 200: SessionEnded, '4xx': ErrorReply, '5xx': ErrorReply },
      },
      onRequest: async () => admission.assertReady(),
    },
    async (request) => {
      const { params, query } = request;
      const model = spanModel(models, query.model);
      await engine.endSession(model.id, sessionKey(params.key, request));
      return { model: model.id, key: params.key, ended: true as const };
    },
  );
}
