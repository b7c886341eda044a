import { describeConfig } from '../../config.js';
import { VERSION } from '../../version.js';
import type { App, AppDeps } from '../deps.js';
import type { ModelTable } from '../model-table.js';
import { Info } from '../schemas.js';

/** `GET /v1/info`: what this server is and how it was started. */
export function infoRoutes(app: App, { config, engine }: AppDeps, models: ModelTable): void {
  const options = describeConfig(config);
  app.get(
    '/v1/info',
    {
      schema: {
        summary: 'Version, options in force, device, refused packages',
        tags: ['server'],
        response: { 200: Info },
      },
    },
    async () => {
      const { state, device, deviceReason, deviceWarnings, deviceMemory, backend, threads, restarts } = engine.info();
      return {
        name: 'ponder-serve',
        version: VERSION,
        state,
        device,
        device_reason: deviceReason,
        device_warnings: [...deviceWarnings],
        device_memory:
          deviceMemory === null ? null : { used_bytes: deviceMemory.usedBytes, total_bytes: deviceMemory.totalBytes },
        backend,
        threads,
        engine_restarts: restarts,
        models: models.served().map(({ id }) => id),
        refused_models: models.refused().map(({ id, reason }) => ({ id, reason })),
        options: { ...options },
      };
    },
  );
}
