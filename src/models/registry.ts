/**
 * Finds the model packages of a folder and decides which can be served. A package is `<folder>/<name>/` with a
 * manifest.json; one that is damaged or not for this version is refused with the reason, and the others still serve.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { ModelDescription, RefusedModel } from './description.js';
import { checkFiles, type FileCheck } from './integrity.js';
import {
  damaged,
  MANIFEST_BYTES_MAX,
  type Manifest,
  PackageError,
  PRECISIONS,
  type Precision,
  parseManifest,
} from './manifest.js';

export interface ModelPackage {
  /** Absolute. */
  readonly folder: string;
  readonly manifest: Manifest;
  /** When the manifest was written to this disk. */
  readonly createdAtUnix: number;
}

/** What `inspect` tells of a package: its manifest and whether each file is intact. */
export interface PackageFacts extends ModelPackage {
  readonly files: readonly FileCheck[];
}

export interface LoadedModels {
  readonly models: ModelDescription[];
  readonly refused: RefusedModel[];
}

/**
 * All packages of `folder`, or those named in `only`, in the order of their names.
 * @throws PackageError when the folder itself can't be read; a bad package never throws
 */
export async function loadModels(options: {
  folder: string;
  only: readonly string[] | null;
  precision: Precision;
}): Promise<LoadedModels> {
  const present = await packageNames(options.folder);
  const models: ModelDescription[] = [];
  const refused: RefusedModel[] = [];
  for (const id of options.only === null ? present : new Set(options.only)) {
    try {
      if (!present.includes(id)) throw new PackageError(missing(id, options.folder, present));
      const facts = await packageFacts(options.folder, id);
      const bad = facts.files.find((check) => check.problem !== null);
      if (bad !== undefined) throw damaged(bad.file, bad.problem as string);
      models.push(describe(facts, options.precision));
    } catch (error) {
      refused.push({ id, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return { models, refused };
}

/**
 * Reads a package and checks its files.
 * @throws PackageError when there is no valid manifest; damaged files are facts
 */
export async function packageFacts(modelsFolder: string, name: string): Promise<PackageFacts> {
  const present = await packageNames(modelsFolder);
  if (!present.includes(name)) throw new PackageError(missing(name, modelsFolder, present));
  const folder = resolve(modelsFolder, name);
  const { json, createdAtUnix } = await readManifest(folder);
  const manifest = parseManifest(json, name);
  return { folder, manifest, createdAtUnix, files: await checkFiles(folder, manifest.files) };
}

/** What the server tells of a package at a precision. Throws PackageError when it has no graphs for that. */
export function describe({ folder, manifest, createdAtUnix }: ModelPackage, precision: Precision): ModelDescription {
  const graphs = manifest.precisions[precision];
  if (graphs === undefined) {
    const others = PRECISIONS.filter((other) => manifest.precisions[other] !== undefined);
    throw new PackageError(
      `manifest.json: no ${precision} graphs: start with --precision ${others.join(' or ')}, or re-export`,
    );
  }
  return {
    id: manifest.name,
    task: manifest.task,
    language: manifest.language,
    precision,
    vocabularySize: manifest.dimensions.vocab,
    parameters: manifest.parameters,
    graphs,
    ...deviceGraphs(manifest),
    folder,
    provenance: manifest.provenance,
    quality: manifest.quality,
    createdAtUnix,
    ...familyFacts(manifest),
  };
}

/** Of attention spans the float32 graphs do: they are standard operators, which the CUDA provider has; those of 8 bits it has not. */
function deviceGraphs({ family, precisions }: Manifest): Pick<ModelDescription, 'deviceGraphs'> {
  const graphs = family === 'adaptive-span' ? precisions.float32 : precisions.float16;
  return graphs === undefined ? {} : { deviceGraphs: graphs };
}

function familyFacts(manifest: Manifest) {
  switch (manifest.family) {
    case 'universal-transformer':
      return {
        family: manifest.family,
        targetLanguage: manifest.target_language ?? null,
        contextTokens: manifest.dimensions.context,
        maxSteps: manifest.halting.max_steps,
        threshold: manifest.halting.threshold,
        bosId: manifest.tokens.bos,
        eosId: manifest.tokens.eos,
      };
    case 'adaptive-span': {
      const { d_model, heads, d_ff, vocab, layers, span_max: spanMax, ramp } = manifest.dimensions;
      const tokenMultiplications = layers * (4 * d_model ** 2 + 2 * d_model * d_ff) + d_model * vocab;
      return {
        family: manifest.family,
        targetLanguage: null,
        contextTokens: Number.MAX_SAFE_INTEGER,
        maxSteps: 1,
        threshold: 1,
        bosId: manifest.tokens.bos,
        // Bytes have no end of text.
        eosId: -1,
        span: { ...manifest.span, spanMax, ramp, headWidth: d_model / heads, tokenMultiplications },
      };
    }
    default:
      return manifest satisfies never;
  }
}

/** Subfolders, sorted; hidden ones (`.git`, `..data` of a Kubernetes volume) are no packages, nor are files beside them. */
async function packageNames(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries
      .filter((entry) => (entry.isDirectory() || entry.isSymbolicLink()) && !entry.name.startsWith('.'))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    throw new PackageError(
      `cannot read the models folder ${folder} (${(error as NodeJS.ErrnoException).code}): set --models`,
    );
  }
}

async function readManifest(folder: string): Promise<{ json: string; createdAtUnix: number }> {
  const path = join(folder, 'manifest.json');
  try {
    const found = await stat(path);
    if (!found.isFile()) throw damaged('manifest.json', 'is not a file');
    if (found.size > MANIFEST_BYTES_MAX)
      throw damaged('manifest.json', `has ${found.size} bytes, more than ${MANIFEST_BYTES_MAX}`);
    return { json: await readFile(path, 'utf8'), createdAtUnix: Math.floor(found.mtimeMs / 1000) };
  } catch (error) {
    if (error instanceof PackageError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    throw damaged('manifest.json', code === 'ENOENT' ? 'is missing' : `cannot be read (${code ?? message})`);
  }
}

function missing(name: string, folder: string, present: readonly string[]): string {
  const there = present.length > 0 ? `it has ${present.join(', ')}` : 'it is empty';
  return `no package ${JSON.stringify(name)} in ${folder}; ${there}: correct the name or set --models`;
}
