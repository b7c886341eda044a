/** `ponder-serve serve`: loads the packages, starts the engine, listens, and leaves in order when asked to stop. */
import cluster from 'node:cluster';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { monotonicMs } from '../clock.js';
import { assertServable, type Config, optionHelp, parseConfig } from '../config.js';
import type { Engine } from '../engine/engine.js';
import { startEngine } from '../engine/start.js';
import { Admission } from '../http/admission.js';
import { buildApp } from '../http/app.js';
import type { App } from '../http/deps.js';
import { KeyRing } from '../http/key-ring.js';
import { guessingDetector, loadLanguageDetector } from '../http/language-detector.js';
import { ModelRepository } from '../http/model-repository.js';
import { createMetrics } from '../metrics/metrics.js';
import { Observer } from '../metrics/observe.js';
import type { Traces } from '../metrics/traces.js';
import type { ModelDescription, RefusedModel } from '../models/description.js';
import { loadModels } from '../models/registry.js';
import { loadTokenizer } from '../tokenize/tokenizer.js';
import type { Tokenizer } from '../tokenize/types.js';
import { runCluster, threadsOf } from './cluster.js';
import { type Channel, ClusterWorker } from './cluster-worker.js';
import { CommandError, type CommandIo, EXIT, runCommand, write } from './command.js';
import { isLoopback, readSecrets, reloadSecrets } from './serve-secrets.js';
import { ModelWatcher } from './serve-watch.js';

export const USAGE = `Usage: ponder-serve serve [options]

Serves models over HTTP; GET /docs describes the interface. A flag wins over an environment variable.

${optionHelp()}
`;

/** What the command needs of the world; tests bring their own. */
export interface ServeDependencies {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly loadModels: typeof loadModels;
  readonly loadTokenizer: typeof loadTokenizer;
  /** Where the log goes; standard output unless told. */
  readonly log?: Writable;
  /** `refused`: packages that passed their checks but that the runtime could not open. */
  readonly startEngine: (
    config: Config,
    models: readonly ModelDescription[],
  ) => Promise<Engine & { refused?(): readonly RefusedModel[] }>;
  /** Calls back at every SIGHUP. Returns how to stop. */
  readonly onHangup: (listener: () => void) => () => void;
}

function onHangup(listener: () => void): () => void {
  process.on('SIGHUP', listener);
  return () => process.off('SIGHUP', listener);
}

/** @param stop aborts to stop in order: what is in is finished, what is new gets 503 */
export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal,
  world: ServeDependencies = { env: process.env, loadModels, loadTokenizer, startEngine, onHangup },
): Promise<number> {
  return runCommand('serve', io, async () => {
    if (argv.includes('--help')) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const config = parseConfig(argv, world.env);
    if (config.workers > 1) {
      const told = argv.some((flag) => flag.startsWith('--threads')) || Boolean(world.env.PONDER_THREADS);
      const entry = fileURLToPath(new URL('../main.js', import.meta.url));
      return runCluster(entry, argv, config, threadsOf(config, told), io, stop, world.onHangup);
    }
    const server = await start(config, world);
    const reload = (): void => void reloadSecrets(server.app, server.keys, () => readSecrets(config, world.env));
    const stopReloading = world.onHangup(reload);
    try {
      await listen(server, config);
      const ended = AbortSignal.any([stop, server.stopped]);
      if (config.modelControl === 'watch') await watch(server, config, ended);
      else await aborted(ended);
    } finally {
      stopReloading();
      await drain(server, config.drainMsMax);
    }
    return EXIT.ok;
  });
}

/** To the first process of several. */
function channel(): Channel {
  return {
    send: (message) => void process.send?.(message),
    on: (event, listener) => void process.on(event, listener),
  };
}

interface Server {
  readonly app: App;
  readonly engine: Engine;
  readonly admission: Admission;
  readonly keys: KeyRing;
  /** Aborts when the first process of several says so. */
  readonly stopped: AbortSignal;
  readonly repository: ModelRepository;
  readonly traces: Traces | undefined;
}

async function start(config: Config, world: ServeDependencies): Promise<Server> {
  const secrets = await readSecrets(config, world.env);
  const keys = new KeyRing(secrets.keys, config, { monotonicMs, unixMs: Date.now });
  const { models, tokenizers, refused } = await load(config, world);
  assertServable(config, models);
  // Read while the engine's thread opens its models.
  const translates = models.some(({ task }) => task === 'translate');
  const detecting = translates ? loadLanguageDetector() : guessingDetector;
  const engine = await world.startEngine(config, models).catch((error: unknown) => {
    throw new CommandError(error instanceof Error ? error.message : String(error));
  });
  const admission = new Admission(config, engine);
  const { loadModels, loadTokenizer } = world;
  const repository = new ModelRepository({ config, engine, admission, tokenizers, loadModels, loadTokenizer }, refused);
  const allRefused = (): readonly RefusedModel[] => repository.refused();
  assertAnyServed(engine.models(), allRefused(), config);
  const metrics = createMetrics(
    {
      requestsInWork: () => admission.requestsInWork,
      engineRestarts: () => engine.info().restarts,
      engineReady: () => engine.info().state === 'ready',
      backlogSeconds: () => engine.info().backlogMs / 1000,
    },
    { latencyBucketsMs: config.latencyBucketsMs, processMetrics: true },
  );
  // Some megabytes of libraries that nobody loads who has no collector.
  const traces =
    config.tracesUrl === 'none' ? undefined : (await import('../metrics/traces.js')).openTraces(config.tracesUrl);
  const stopped = new AbortController();
  const shared = cluster.isWorker ? new ClusterWorker(channel(), metrics, () => stopped.abort()) : null;
  const app = await buildApp({
    config,
    engine,
    admission,
    keys,
    tls: secrets.tls,
    repository,
    tokenizers,
    detector: await detecting,
    refused: allRefused,
    metrics,
    observer: new Observer(metrics),
    traces,
    scrape: shared === null ? undefined : () => shared.scrape(),
    logger: { level: config.logLevel, ...(world.log === undefined ? {} : { stream: world.log }) },
  });
  const { deviceReason, deviceWarnings } = engine.info();
  // Of a GPU that was named and can't be used the reason is the warning.
  if (!deviceWarnings.includes(deviceReason)) app.log.info(`device: ${deviceReason}`);
  for (const warning of deviceWarnings) app.log.warn(`device: ${warning}`);
  for (const { id, reason } of allRefused()) app.log.warn({ model: id, reason }, 'package refused');
  return { app, engine, admission, keys, repository, traces, stopped: stopped.signal };
}

interface Loaded {
  readonly models: readonly ModelDescription[];
  readonly tokenizers: Map<string, Tokenizer>;
  readonly refused: readonly RefusedModel[];
}

/** A package whose tokenizer can't be used is refused like any other bad package. */
async function load(config: Config, world: ServeDependencies): Promise<Loaded> {
  const only = config.modelList.length === 0 ? null : config.modelList;
  const found = await world.loadModels({ folder: config.models, only, precision: config.precision });
  const models: ModelDescription[] = [];
  const refused: RefusedModel[] = [...found.refused];
  const tokenizers = new Map<string, Tokenizer>();
  for (const model of found.models) {
    try {
      tokenizers.set(model.id, await world.loadTokenizer(model.folder, model.vocabularySize));
      models.push(model);
    } catch (error) {
      refused.push({ id: model.id, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  assertAnyServed(models, refused, config);
  return { models, tokenizers, refused };
}

function assertAnyServed(models: readonly ModelDescription[], refused: readonly RefusedModel[], config: Config): void {
  if (models.length > 0) return;
  const reasons = refused.map(({ id, reason }) => `${id}: ${reason}`).join('; ');
  throw new CommandError(`no model to serve in ${config.models}${reasons ? ` (${reasons})` : ''}: check --models`);
}

/** A model as the log at start names it. */
export function servedAs({ id, precision, maxSteps, span }: ModelDescription): string {
  const adapts = span === undefined ? `up to ${maxSteps} steps` : `spans up to ${span.spanMax} keys`;
  return `${id} (${precision}, ${adapts})`;
}

async function listen({ app, engine, keys }: Server, config: Config): Promise<void> {
  const served = engine.models().map(servedAs).join(', ');
  const { host, port } = config;
  try {
    await app.listen({ host, port, listenTextResolver: (address) => `ready at ${address}, serving ${served}` });
    if (!keys.required && !isLoopback(host)) {
      app.log.warn(
        `NO API KEYS: whoever reaches ${host}:${port} can use this server and unload its models. ` +
          'Set --api-keys-file or PONDER_API_KEYS (docs/auth.md), or listen on 127.0.0.1.',
      );
    }
  } catch (error) {
    switch ((error as NodeJS.ErrnoException).code) {
      case 'EADDRINUSE':
        throw new CommandError(`port ${port} of ${host} is in use: stop the other server, or choose another --port`);
      case 'EACCES':
        throw new CommandError(`port ${port} needs privileges: choose a --port above 1023`);
      case 'EADDRNOTAVAIL':
      case 'ENOTFOUND':
        throw new CommandError(`${host} is no address of this machine: choose another --host`);
      default:
        throw error;
    }
  }
}

/** Follows the models folder until the server is asked to stop. */
async function watch({ app, repository }: Server, config: Config, stop: AbortSignal): Promise<void> {
  const watcher = new ModelWatcher(config, repository, app.log);
  const pause = (ms: number, signal: AbortSignal) => sleep(ms, undefined, { signal }).catch(() => {});
  await watcher.run(config.modelPollMs, stop, pause);
}

/** Kept of the drain time for telling those who wait in vain, releasing the engine and closing connections. */
const CLOSING_MS_MAX = 1000;

/**
 * What is in is finished: first the requests, then the replies, then the engine, which keeps nothing, then the connections. A
 * step that takes too long is passed over; the process ends within `drainMsMax`.
 */
async function drain({ app, engine, admission, traces }: Server, drainMsMax: number): Promise<void> {
  const closingMs = Math.min(CLOSING_MS_MAX, drainMsMax / 2);
  app.log.info(`stopping: ${admission.requestsInWork} requests in work`);
  admission.drain();
  await atMost(drainMsMax - closingMs, admission.whenIdle());
  await atMost(closingMs / 2, engine.drain(0));
  await atMost(closingMs / 4, traces?.stop() ?? Promise.resolve());
  const closed = app.close();
  await atMost(closingMs / 4, closed);
  app.server.closeAllConnections();
  await atMost(closingMs / 4, closed);
}

async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  const timeout = sleep(ms, null, { signal: timer.signal }).catch(() => {});
  await Promise.race([work, timeout]);
  timer.abort();
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
