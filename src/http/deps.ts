/** What the routes are built on: the app's type, and everything that they need of the world. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, FastifyServerOptions, RawServerDefault } from 'fastify';
import type { Config } from '../config.js';
import type { Engine } from '../engine/engine.js';
import type { Metrics } from '../metrics/metrics.js';
import type { Observer } from '../metrics/observe.js';
import type { Traces } from '../metrics/traces.js';
import type { RefusedModel } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { Admission } from './admission.js';
import type { ApiKey } from './api-keys.js';
import type { KeyRing } from './key-ring.js';
import type { LanguageDetector } from './language-detector.js';
import type { ModelRepository } from './model-repository.js';
import type { RequestExit } from './request-exit.js';

export interface TlsFiles {
  readonly cert: Buffer;
  readonly key: Buffer;
}

export interface AppDeps {
  readonly config: Config;
  readonly engine: Engine;
  readonly admission: Admission;
  readonly keys: KeyRing;
  readonly repository: Pick<ModelRepository, 'index' | 'load' | 'unload'>;
  /** Certificate and private key (PEM); null: HTTP. */
  readonly tls: TlsFiles | null;
  /** By model id. */
  readonly tokenizers: ReadonlyMap<string, Tokenizer>;
  /** Packages that are not served, with the reason. */
  readonly refused: () => readonly RefusedModel[];
  /** For `source: auto` of LibreTranslate's contract. */
  readonly detector: LanguageDetector;
  readonly metrics: Metrics;
  readonly observer: Observer;
  /** Where traces of requests go; absent: nowhere. */
  readonly traces?: Traces | undefined;
  /** The text of /metrics where it is not this process's alone. */
  readonly scrape?: (() => Promise<string>) | undefined;
  readonly logger: NonNullable<FastifyServerOptions['logger']>;
}

export type App = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

declare module 'fastify' {
  interface FastifyRequest {
    exit: RequestExit;
    /** Whose request it is; null when none is needed, or none was sent. */
    key: ApiKey | null;
  }
}
