/**
 * The HTTP server, assembled: plugins, OpenAPI, routes, and the one exit of every request. It never listens, so that tests can
 * inject requests; `cli/serve.ts` does.
 */
import { randomUUID } from 'node:crypto';
import fastifyCors, { type FastifyCorsOptions } from '@fastify/cors';
import fastifySwagger from '@fastify/swagger';
import fastifySwaggerUi from '@fastify/swagger-ui';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, {
  type FastifyError,
  type FastifyHttpOptions,
  type FastifyReply,
  type FastifyRequest,
  LogController,
  type RawServerDefault,
} from 'fastify';
import { monotonicMs } from '../clock.js';
import type { Config } from '../config.js';
import { readTraceParent } from '../metrics/trace-context.js';
import type { RequestTrace } from '../metrics/traces.js';
import { VERSION } from '../version.js';
import { authHooks } from './auth.js';
import type { App, AppDeps } from './deps.js';
import {
  answerConnection,
  answerExpectation,
  assertHost,
  notFound,
  sendError,
  toConnectionError,
  toServerError,
} from './errors.js';
import { limitsMeant } from './field-limits.js';
import { parseJsonBody } from './json-body.js';
import { HEADER_LENGTH } from './kserve-body.js';
import type { ModelTable } from './model-table.js';
import { RequestExit } from './request-exit.js';
import { addressedTo, annotate } from './route-notes.js';
import { RouteTable } from './route-table.js';
import { completionRoutes } from './routes/completions.js';
import { documentRoutes } from './routes/documents.js';
import { healthRoutes } from './routes/health.js';
import { infoRoutes } from './routes/info.js';
import { kserveRoutes } from './routes/kserve.js';
import { libreTranslateRoutes } from './routes/libretranslate.js';
import { modelRoutes } from './routes/models.js';
import { pageRoutes } from './routes/page.js';
import { repositoryRoutes } from './routes/repository.js';
import { scoreRoutes } from './routes/score.js';
import { sessionRoutes } from './routes/sessions.js';
import { tokenizeRoutes } from './routes/tokenize.js';
import { translateRoutes } from './routes/translate.js';

/** Ids longer than this, or with characters that could forge a log line, are replaced by our own. */
const REQUEST_ID = /^[\w.:-]{1,128}$/;

export async function buildApp(deps: AppDeps): Promise<App> {
  const { config, admission, engine } = deps;
  const app: App = Fastify({
    ...serverOptions(deps),
    frameworkErrors: (error, request, reply) => {
      openExit(request as FastifyRequest, reply as FastifyReply, deps);
      fail(error, request as FastifyRequest, reply as FastifyReply, deps);
    },
  }).withTypeProvider<TypeBoxTypeProvider>();
  // Lines of one request carry its id, and the trace of whoever sent it.
  app.setChildLoggerFactory((logger, bindings, options, raw) => {
    const parent = readTraceParent(raw.headers.traceparent);
    const traced = parent === null ? {} : { traceId: parent.traceId, parentSpanId: parent.spanId };
    return logger.child({ ...bindings, ...traced }, options);
  });
  app.server.headersTimeout = config.headersTimeoutMs;
  app.server.maxConnections = config.connectionsMax;
  app.server.on('checkExpectation', (_request, response) => {
    deps.observer.finished(null, answerExpectation(response).code);
  });

  const routes = new RouteTable();
  app.addHook('onRoute', ({ url, method }) => {
    // The preflight requests of CORS are answered everywhere, but that is no route.
    if (url !== '*') routes.add(url, [method].flat());
  });
  app.decorateRequest('exit');
  app.addHook('onRequest', async (request, reply) => {
    openExit(request, reply, deps);
    assertHost(request.raw);
    if (admission.draining) reply.header('connection', 'close');
  });
  if (config.corsOrigins.length > 0) await app.register(fastifyCors, corsOptions(config));
  authHooks(app, deps.keys);
  // A client that stops reading its reply would hold it, and its permit, for as long as it likes. A stream of events may also
  // be silent because the next sentence takes its time: then nothing waits to be read.
  app.addHook('onSend', async (_request, reply) => {
    reply.raw.setTimeout(config.replyStallMsMax, () => {
      if (reply.raw.writableLength > 0) reply.raw.destroy();
    });
  });
  app.setErrorHandler((error, request, reply) => fail(error, request, reply, deps));
  app.setNotFoundHandler(async (request, reply) => {
    throw notFound(request, reply, routes);
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, parseJsonBody);

  await app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'ponder-serve',
        version: VERSION,
        description: 'Inference for models that decide for themselves how much to compute.',
      },
      // Only where the server has keys: an empty requirement stands for none.
      components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
      security: [{}, { key: [] }],
    },
    transformObject: (document) =>
      annotate('openapiObject' in document ? document.openapiObject : document.swaggerObject),
  });
  await app.register(fastifySwaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    transformSpecification: (document, { headers, protocol }) => addressedTo(document, headers.host, protocol),
    transformSpecificationClone: false,
  });

  const models: ModelTable = { served: () => engine.models(), refused: deps.refused };
  scoreRoutes(app, deps, models);
  sessionRoutes(app, deps, models);
  translateRoutes(app, deps, models);
  completionRoutes(app, deps, models);
  tokenizeRoutes(app, deps, models);
  modelRoutes(app, deps, models);
  infoRoutes(app, deps, models);
  healthRoutes(app, deps, models);
  documentRoutes(app, deps);
  await app.register(async (scope) => pageRoutes(scope as App));
  await app.register(async (scope) => libreTranslateRoutes(scope as App, deps, models));
  await app.register(async (scope) => kserveRoutes(scope as App, deps, models));
  await app.register(async (scope) => repositoryRoutes(scope as App, deps));

  const stopTelemetry = engine.onTelemetry((report) => deps.observer.telemetry(report));
  app.addHook('onClose', async () => stopTelemetry());
  return app;
}

/** Without credentials: keys travel in a header that the page sets itself, never in a cookie. */
function corsOptions({ corsOrigins }: Config): FastifyCorsOptions {
  return {
    origin: corsOrigins.includes('*') ? '*' : [...corsOrigins],
    methods: ['GET', 'POST', 'DELETE'],
    exposedHeaders: ['x-request-id', 'server-timing', 'retry-after', HEADER_LENGTH],
    maxAge: 600,
  };
}

function serverOptions({ config, observer, logger, tls }: AppDeps): FastifyHttpOptions<RawServerDefault> {
  const node = {
    maxHeaderSize: config.headerBytesMax,
    // Node would answer a missing Host header with an empty 400; `assertHost` does it in our shape.
    requireHostHeader: false,
    // Node looks for late requests at this interval; with its default of 30 s a limit of 10 s would mean up to 40 s.
    connectionsCheckingInterval: Math.min(5000, Math.max(50, Math.floor(config.headersTimeoutMs / 4))),
  };
  return {
    // An HTTPS server differs only in how it listens; fastify has another type for it.
    ...(tls === null ? { http: node } : ({ https: { ...node, ...tls } } as object)),
    logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: config.bodyBytesMax,
    requestTimeout: config.requestTimeoutMs,
    keepAliveTimeout: config.keepAliveMs,
    // While draining, our own door answers, in our own shape.
    return503OnClosing: false,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false, allErrors: false } },
    genReqId: ({ headers }) => {
      const id = headers['x-request-id'];
      return typeof id === 'string' && REQUEST_ID.test(id) ? id : randomUUID();
    },
    clientErrorHandler: (error, socket) => {
      const answer = toConnectionError(error);
      if (answer === null) socket.destroy();
      else if (answerConnection(socket, answer)) observer.finished(null, answer.code);
    },
  };
}

/** Opens the one exit of a request: the closing of its response, which comes after the reply and after a hang-up alike. */
function openExit(request: FastifyRequest, reply: FastifyReply, { observer, traces }: AppDeps): void {
  const exit = new RequestExit();
  request.exit = exit;
  reply.header('x-request-id', request.id);
  reply.raw.once('close', () => {
    exit.finish(reply.raw.writableEnded);
    const route = request.routeOptions.url;
    const key = request.key?.name ?? null;
    observer.finished(route ?? null, exit.outcome, key);
    if (traces !== undefined && request.method === 'POST') traces.record(traceOf(request), Date.now());
    request.log.debug(
      { method: request.method, route, outcome: exit.outcome, ...(key === null ? {} : { key }) },
      'request left',
    );
  });
}

function traceOf({ id, exit, headers, routeOptions }: FastifyRequest): RequestTrace {
  return {
    route: routeOptions.url ?? 'none',
    requestId: id,
    outcome: exit.outcome,
    parent: readTraceParent(headers.traceparent),
    totalMs: monotonicMs() - exit.startedAtMs,
    phases: exit.phases,
  };
}

function fail(thrown: unknown, request: FastifyRequest, reply: FastifyReply, deps: AppDeps): void {
  const { config, engine, refused } = deps;
  const models = { served: () => engine.models(), refused };
  const isField = (thrown as Partial<FastifyError>).validation !== undefined;
  const limits = isField ? limitsMeant(request.routeOptions.url ?? '', request.body, models, config) : {};
  const error = toServerError(thrown, request, config.bodyBytesMax, limits);
  request.exit.outcome = error.code;
  if (error.code === 'INTERNAL') request.log.error({ err: thrown }, 'request failed');
  // Fastify closes the connection when a body could not be parsed. Closing while the client still sends resets it, and the
  // answer is lost; Node discards the rest of the body instead, for as long as --request-timeout-ms.
  if (error.code !== 'DRAINING') reply.removeHeader('connection');
  sendError(reply, error);
}
