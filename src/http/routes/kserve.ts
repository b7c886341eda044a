import type { FastifyRequest } from 'fastify';
import { monotonicMs } from '../../clock.js';
import { ServerError } from '../../errors.js';
import type { ModelDescription } from '../../models/description.js';
import { VERSION } from '../../version.js';
import type { App, AppDeps } from '../deps.js';
import { decompress, InferBody, readInferRequest } from '../kserve-body.js';
import { infer } from '../kserve-infer.js';
import { MODEL_VERSION, modelConfig, modelMetadata } from '../kserve-models.js';
import { readOrder } from '../kserve-order.js';
import { sendInferReply } from '../kserve-reply.js';
import {
  InferReply,
  ModelConfig,
  ModelMetadata,
  ModelReady,
  ModelStats,
  ServerMetadata,
  ServerReady,
  VersionParams,
} from '../kserve-schemas.js';
import { InferenceStats } from '../kserve-stats.js';
import { PlainError } from '../libretranslate-schemas.js';
import { type ModelTable, modelNamed } from '../model-table.js';
import { ModelParams } from '../schemas.js';
import { sendTiming } from '../timing.js';

const tags = ['KServe v2'];
const errors = { '4xx': PlainError, '5xx': PlainError };
/** The bodies are tensors as often as JSON; `kserve-body.ts` checks them. */
const validatorCompiler = () => () => true;

const EXTENSIONS = ['binary_tensor_data', 'model_configuration', 'model_repository', 'parameters', 'statistics'];

interface Named {
  readonly id: string;
  readonly version?: string;
}

/** The Open Inference Protocol (KServe v2, Triton) with its binary extension. Registered as a plugin: its body parser is for these paths alone. */
export async function kserveRoutes(app: App, deps: AppDeps, models: ModelTable): Promise<void> {
  const { config, admission } = deps;
  const stats = new InferenceStats();

  app.removeAllContentTypeParsers();
  // Clients send no content type, or another one.
  app.addContentTypeParser('*', { parseAs: 'buffer' }, async (_request: FastifyRequest, body: Buffer) => body);

  const get = <T>(path: string, schema: object, handler: (request: FastifyRequest) => Promise<T>) =>
    app.get(path, { schema: { tags, ...schema } }, handler);
  const named = ({ params }: FastifyRequest): ModelDescription => modelAt(params as Named, models);

  get('/v2', { summary: 'What this server speaks', response: { 200: ServerMetadata } }, async () => {
    return { name: 'ponder-serve', version: VERSION, extensions: [...EXTENSIONS] };
  });
  get('/v2/health/live', { summary: 'The process is alive' }, async () => ({ live: true }));
  get(
    '/v2/health/ready',
    { summary: 'Requests are served; 503 otherwise', response: { 200: ServerReady, ...errors } },
    async () => {
      admission.assertReady();
      return { ready: true };
    },
  );
  const ofModel = <T>(path: string, schema: object, handler: (model: ModelDescription) => Promise<T>) => {
    const params = { params: ModelParams };
    get(`/v2/models/:id${path}`, { ...schema, ...params }, async (request) => handler(named(request)));
    const versioned = { ...schema, params: VersionParams, hide: true };
    get(`/v2/models/:id/versions/:version${path}`, versioned, async (request) => handler(named(request)));
  };
  ofModel(
    '',
    {
      summary: "A model's tensors; all of /v2/models/{id} also under /versions/1",
      response: { 200: ModelMetadata, ...errors },
    },
    async (model) => modelMetadata(model),
  );
  ofModel('/ready', { summary: 'The model is served', response: { 200: ModelReady, ...errors } }, async ({ id }) => {
    admission.assertReady();
    return { name: id, ready: true };
  });
  const config200 = { 200: ModelConfig, ...errors };
  ofModel(
    '/config',
    { summary: "The model's configuration, as Triton writes it", response: config200 },
    async (model) => modelConfig(model),
  );
  const stats200 = { 200: ModelStats, ...errors };
  ofModel(
    '/stats',
    { summary: 'Requests and times of the model over this protocol', response: stats200 },
    async ({ id }) => {
      return { model_stats: [stats.of(id, MODEL_VERSION)] };
    },
  );
  get('/v2/models/stats', { summary: 'The same of all models' }, async () => {
    return { model_stats: models.served().map(({ id }) => stats.of(id, MODEL_VERSION)) };
  });

  for (const hide of [false, true]) {
    app.post(
      hide ? '/v2/models/:id/versions/:version/infer' : '/v2/models/:id/infer',
      {
        schema: {
          tags,
          hide,
          summary: 'Scores or translates: tensors in, tensors out, as JSON or bytes',
          params: hide ? VersionParams : ModelParams,
          body: InferBody,
          response: { 200: InferReply, ...errors },
        },
        onRequest: async (request) => admission.admitBody(request),
        validatorCompiler,
      },
      async (request, reply) => {
        const { exit } = request;
        // Nothing is waited for between the look at the models and the permit: a model that is unloaded waits for permits.
        const body = await decompress(request, bodyOf(request), admission, config.bodyBytesMax);
        const model = named(request);
        try {
          const order = readOrder(readInferRequest(request, body), model, config);
          const { outputs, usage, timing } = await infer(deps, exit, model, order);
          sendTiming(reply, timing);
          const texts = outputs.find(({ name }) => name === 'lengths')?.elements.length ?? 0;
          stats.answered(model.id, texts, timing, Date.now());
          return sendInferReply(reply, { model: model.id, id: order.id, outputs, parameters: usage }, order.outputs);
        } catch (error) {
          stats.failed(model.id, monotonicMs() - exit.startedAtMs);
          throw error;
        }
      },
    );
  }
}

/** A request without a body has none to parse. */
function bodyOf({ body }: FastifyRequest): Buffer {
  return Buffer.isBuffer(body) ? body : Buffer.alloc(0);
}

/** @throws ServerError UNKNOWN_MODEL */
function modelAt({ id, version = MODEL_VERSION }: Named, models: ModelTable): ModelDescription {
  const model = modelNamed(models, id);
  if (version === MODEL_VERSION) return model;
  throw new ServerError(
    'UNKNOWN_MODEL',
    `model '${model.id}' has the version ${MODEL_VERSION} alone: ask for that`,
    'version',
  );
}
