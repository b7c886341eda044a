import type { App, AppDeps } from '../deps.js';
import type { ModelTable } from '../model-table.js';
import { ErrorReply, Live, Ready } from '../schemas.js';

/** Liveness says that the main thread turns; readiness, that a request sent now would be served. */
export function healthRoutes(app: App, { admission }: AppDeps, models: ModelTable): void {
  app.get(
    '/health/live',
    { schema: { summary: 'The process is alive', tags: ['server'], response: { 200: Live } } },
    async () => ({ status: 'live' as const }),
  );
  app.get(
    '/health/ready',
    {
      schema: {
        summary: 'Requests are served; 503 with the reason while starting, restarting or draining',
        tags: ['server'],
        response: { 200: Ready, 503: ErrorReply },
      },
    },
    async () => {
      admission.assertReady();
      return { status: 'ready' as const, models: models.served().map(({ id }) => id) };
    },
  );
}
