import type { App, AppDeps } from '../deps.js';
import { addressedTo } from '../route-notes.js';

/** `GET /metrics` for Prometheus, and `GET /openapi.json`, which the plugins make from the schemas of all routes. */
export function documentRoutes(app: App, { metrics: { registry }, scrape }: AppDeps): void {
  app.get(
    '/metrics',
    { schema: { summary: 'Metrics in Prometheus text format', tags: ['server'] } },
    async (_, reply) => reply.type(registry.contentType).send(await (scrape?.() ?? registry.metrics())),
  );
  app.get(
    '/openapi.json',
    { schema: { summary: 'This interface as OpenAPI 3.1', tags: ['server'] } },
    async (request, reply) => {
      reply.header('vary', 'host');
      return addressedTo(app.swagger(), request.headers.host, request.protocol);
    },
  );
}
