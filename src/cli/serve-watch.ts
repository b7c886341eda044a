/** Follows the models folder: what appears there is served, what is removed is not. A package counts when it has stopped changing. */
import type { Config } from '../config.js';
import { type ModelRepository, manifestOf } from '../http/model-repository.js';

export interface WatchLog {
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export class ModelWatcher {
  /** Manifest of each package at the last look, and at the last attempt to serve it. */
  #seen = new Map<string, string>();
  readonly #tried = new Map<string, string>();

  constructor(
    private readonly config: Pick<Config, 'models'>,
    private readonly repository: Pick<ModelRepository, 'packages' | 'index' | 'load' | 'unload'>,
    private readonly log: WatchLog,
  ) {}

  /** One look. A package is tried once it is the same as at the look before, and again only when it has changed. */
  async look(): Promise<void> {
    const now = new Map<string, string>();
    for (const name of await this.repository.packages()) {
      const manifest = await manifestOf(this.config.models, name);
      if (manifest !== null) now.set(name, manifest);
    }
    const served = (await this.repository.index()).filter(({ state }) => state === 'READY').map(({ name }) => name);
    for (const name of served) {
      if (!now.has(name)) await this.#change('unload', name);
    }
    for (const [name, manifest] of now) {
      if (served.includes(name) || this.#seen.get(name) !== manifest || this.#tried.get(name) === manifest) continue;
      this.#tried.set(name, manifest);
      await this.#change('load', name);
    }
    for (const name of [...this.#tried.keys()]) if (!now.has(name)) this.#tried.delete(name);
    this.#seen = now;
  }

  /** Looks every `ms` until `signal` aborts. */
  async run(ms: number, signal: AbortSignal, pause: (ms: number, signal: AbortSignal) => Promise<void>): Promise<void> {
    while (!signal.aborted) {
      await this.look();
      await pause(ms, signal);
    }
  }

  async #change(verb: 'load' | 'unload', name: string): Promise<void> {
    try {
      await this.repository[verb](name);
      this.log.info({ model: name }, `model ${verb}ed`);
    } catch (error) {
      this.log.warn({ model: name, reason: (error as Error).message }, `model not ${verb}ed`);
    }
  }
}
