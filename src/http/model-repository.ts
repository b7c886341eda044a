/**
 * Models come and go while the server runs. One at a time: a package is checked, its tokenizer read, and the engine opens it between two
 * steps; a model that leaves is first hidden, then waits for the requests that have seen it, then for the engine.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { assertServable, type Config } from '../config.js';
import type { Engine } from '../engine/engine.js';
import { ServerError } from '../errors.js';
import type { RefusedModel } from '../models/description.js';
import type { loadModels } from '../models/registry.js';
import type { loadTokenizer } from '../tokenize/tokenizer.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { Admission } from './admission.js';
import { shorten } from './validation.js';

export interface RepositoryDeps {
  readonly config: Config;
  readonly engine: Engine & { refused?(): readonly RefusedModel[] };
  readonly admission: Pick<Admission, 'whenPresentLeft'>;
  /** Those of the models served; entries come and go with them. */
  readonly tokenizers: Map<string, Tokenizer>;
  readonly loadModels: typeof loadModels;
  readonly loadTokenizer: typeof loadTokenizer;
}

export interface RepositoryEntry {
  readonly name: string;
  readonly state: 'READY' | 'UNAVAILABLE';
  readonly reason: string;
}

export class ModelRepository {
  /** Why a package is not served, by name. */
  readonly #refused: Map<string, string>;
  /** The change that is under way; the next one waits for it. */
  #changing: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly deps: RepositoryDeps,
    refused: readonly RefusedModel[] = [],
  ) {
    this.#refused = new Map(refused.map(({ id, reason }) => [id, reason]));
  }

  refused(): readonly RefusedModel[] {
    const served = new Set(this.#served());
    const all = new Map([
      ...(this.deps.engine.refused?.() ?? []).map(({ id, reason }) => [id, reason] as const),
      ...this.#refused,
    ]);
    return [...all].filter(([id]) => !served.has(id)).map(([id, reason]) => ({ id, reason }));
  }

  /** What is served, what was refused, and what else lies in the folder. */
  async index(): Promise<RepositoryEntry[]> {
    const served = this.#served();
    const refused = new Map(this.refused().map(({ id, reason }) => [id, reason]));
    const names = new Set([...served, ...refused.keys(), ...(await this.packages())]);
    return [...names]
      .sort()
      .map((name) =>
        served.includes(name)
          ? { name, state: 'READY', reason: '' }
          : { name, state: 'UNAVAILABLE', reason: refused.get(name) ?? 'not loaded' },
      );
  }

  /** Names of the folder's packages: whatever has a manifest. */
  async packages(): Promise<string[]> {
    const { models: folder } = this.deps.config;
    const names = await readdir(folder).catch(() => [] as string[]);
    const found = await Promise.all(
      names
        .filter((name) => !name.startsWith('.'))
        .map(async (name) => ((await manifestOf(folder, name)) === null ? [] : [name])),
    );
    return found.flat();
  }

  /**
   * Serves a package of the folder; one that is served already stays as it is.
   * @throws ServerError UNKNOWN_MODEL, INVALID_REQUEST with the reason for which it can't be served, NOT_READY
   */
  load(id: string): Promise<void> {
    return this.#inTurn(() => this.#load(id));
  }

  /** @throws ServerError UNKNOWN_MODEL, NOT_READY */
  unload(id: string): Promise<void> {
    return this.#inTurn(() => this.#unload(id));
  }

  async #load(id: string): Promise<void> {
    const { config, engine, tokenizers } = this.deps;
    if (this.#served().includes(id)) return;
    if ((await manifestOf(config.models, id)) === null) {
      throw new ServerError(
        'UNKNOWN_MODEL',
        `no package '${shorten(id)}' in the models folder: copy it there first`,
        'model',
      );
    }
    try {
      const found = await this.deps.loadModels({ folder: config.models, only: [id], precision: config.precision });
      const [model] = found.models;
      if (model === undefined) throw new Error(found.refused[0]?.reason ?? 'it was not found');
      assertServable(config, [model]);
      tokenizers.set(id, await this.deps.loadTokenizer(model.folder, model.vocabularySize));
      await engine.load(model);
      this.#refused.delete(id);
    } catch (error) {
      tokenizers.delete(id);
      if (error instanceof ServerError && error.code !== 'INVALID_REQUEST') throw error;
      const reason = (error as Error).message;
      this.#refused.set(id, reason);
      throw new ServerError('INVALID_REQUEST', `the model '${shorten(id)}' can't be served: ${reason}`, 'model');
    }
  }

  async #unload(id: string): Promise<void> {
    const { engine, admission, tokenizers } = this.deps;
    if (!this.#served().includes(id)) {
      throw new ServerError(
        'UNKNOWN_MODEL',
        `model '${shorten(id)}' is not served: GET /v1/models lists those that are`,
        'model',
      );
    }
    await engine.unload(id, admission.whenPresentLeft());
    tokenizers.delete(id);
  }

  #served(): string[] {
    return this.deps.engine.models().map((model) => model.id);
  }

  #inTurn(change: () => Promise<void>): Promise<void> {
    const turn = this.#changing.then(change);
    this.#changing = turn.catch(() => {});
    return turn;
  }
}

/** When the manifest was written and how long it is, or null when there is none. The name must not lead out of the folder. */
export async function manifestOf(folder: string, name: string): Promise<string | null> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) return null;
  try {
    const found = await stat(join(folder, name, 'manifest.json'));
    return found.isFile() ? `${found.mtimeMs} ${found.size}` : null;
  } catch {
    return null;
  }
}
