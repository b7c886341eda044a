import type { FastifyRequest } from 'fastify';
import { ServerError } from '../../errors.js';
import type { App, AppDeps } from '../deps.js';
import { parseJson, parseUtf8 } from '../json-body.js';
import { MODEL_VERSION } from '../kserve-models.js';
import { Done, RepositoryIndex } from '../kserve-schemas.js';
import { PlainError } from '../libretranslate-schemas.js';
import { ModelParams } from '../schemas.js';
import { shorten } from '../validation.js';

const tags = ['KServe v2'];
const errors = { '4xx': PlainError, '5xx': PlainError };

/** The model repository of the Open Inference Protocol: what there is, and serving more or less of it. Registered as a plugin, as is `kserve.ts`. */
export async function repositoryRoutes(app: App, deps: AppDeps): Promise<void> {
  const { admission, repository } = deps;
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, async (_request: FastifyRequest, body: Buffer) => body);
  const onRequest = async (request: FastifyRequest): Promise<void> => admission.admitBody(request);

  app.post(
    '/v2/repository/index',
    {
      schema: {
        tags,
        summary: 'Models: served, refused, and others in the folder',
        response: { 200: RepositoryIndex, ...errors },
      },
      onRequest,
    },
    async (request) => {
      const { ready } = fieldsOf(request);
      const entries = await repository.index();
      const wanted = ready === true ? entries.filter(({ state }) => state === 'READY') : entries;
      return wanted.map((entry) => ({ ...entry, version: MODEL_VERSION }));
    },
  );
  for (const verb of ['unload', 'load'] as const) {
    app.post(
      `/v2/repository/models/:id/${verb}`,
      {
        schema: {
          tags,
          summary:
            verb === 'load'
              ? 'Serves a package of the models folder, beside what is in'
              : 'Finishes what is in with a model, and releases it',
          params: ModelParams,
          response: { 200: Done, ...errors },
        },
        onRequest: async (request) => {
          assertMayChange(request, deps);
          await onRequest(request);
        },
      },
      async (request) => {
        const { id } = request.params as { readonly id: string };
        refuseOverrides(fieldsOf(request).parameters);
        await repository[verb](id);
        request.log.info({ model: id }, `model ${verb}ed`);
        return {};
      },
    );
  }
}

/**
 * A page of another origin could otherwise unload the models of a server on the reader's own machine: its request needs no preflight.
 * @throws ServerError FORBIDDEN
 */
function assertMayChange({ headers, key }: FastifyRequest, { config, keys, scrape }: AppDeps): void {
  if (config.modelControl === 'none') {
    throw new ServerError(
      'FORBIDDEN',
      'models do not change while this server runs: start it with --model-control explicit',
    );
  }
  if (scrape !== undefined) {
    const message =
      'each process of --workers has models of its own: use --model-control watch and change the models folder';
    throw new ServerError('FORBIDDEN', message);
  }
  if (keys.required && key?.admin !== true) {
    throw new ServerError('FORBIDDEN', 'this API key may not change models: one with "admin": true may');
  }
  const { origin, host } = headers;
  if (origin === undefined || hostOf(origin) === host || config.corsOrigins.includes(origin)) return;
  throw new ServerError('FORBIDDEN', 'pages of other origins may not change models: add theirs to --cors-origins');
}

function hostOf(origin: string): string | null {
  try {
    return new URL(origin).host;
  } catch {
    return null;
  }
}

function fieldsOf({ body }: FastifyRequest): Readonly<Record<string, unknown>> {
  if (!Buffer.isBuffer(body) || body.length === 0) return {};
  const fields = parseJson(parseUtf8(body));
  if (typeof fields === 'object' && fields !== null && !Array.isArray(fields)) return fields as Record<string, unknown>;
  throw new ServerError('INVALID_REQUEST', 'the body must be a JSON object, or empty');
}

/** Triton's clients can send a configuration, or whole files, to load a model with. */
function refuseOverrides(parameters: unknown): void {
  const odd = Object.keys((parameters ?? {}) as object).find((name) => name !== 'unload_dependents');
  if (odd === undefined) return;
  const message = `the parameter '${shorten(odd)}' is not supported: packages are loaded as they lie in the models folder`;
  throw new ServerError('INVALID_REQUEST', message, 'parameters');
}
