/**
 * manifest.json: what a model package says about itself. Strict: an unknown key is an error, because a setting that this
 * version does not know may change what the model computes. New families and tasks are added to `FAMILIES` and `TASKS`.
 */
import { type Static, type TProperties, type TSchema, type TUnion, Type } from 'typebox';
import { Value } from 'typebox/value';

export const FORMAT = 'ponder-serve/1';
export const FAMILIES = ['universal-transformer', 'adaptive-span'] as const;
export const TASKS = ['score', 'translate'] as const;
export const PRECISIONS = ['int8', 'float32', 'float16'] as const;

/** A manifest describes graphs and hashes; a megabyte is already a hundred times the usual. */
export const MANIFEST_BYTES_MAX = 1_048_576;

/** A plain name within the folder: no separator, no leading dot, so no path out of it. */
export const FILE_NAME = '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$';
const MODEL_NAME = '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$';

/** An object whose keys are known, all of them required unless `Type.Optional`. */
const Strict = <T extends TProperties>(properties: T) => Type.Object(properties, { additionalProperties: false });
/** An object with any keys of a pattern; the record alone would leave other keys unchecked. */
const Named = <T extends TSchema>(keys: string, value: T) =>
  Type.Record(Type.String({ pattern: keys }), value, { additionalProperties: false });
const OneOf = <const T extends readonly string[]>(values: T) =>
  Type.Enum(values as unknown as [T[number], ...T[number][]]);
const Count = Type.Integer({ minimum: 1, maximum: 2 ** 31 - 1 });
const TokenId = Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 });
const Free = Type.Record(Type.String(), Type.Unknown());

const Tensor = Strict({
  type: OneOf(['float32', 'float16', 'int32', 'int64', 'bool', 'uint8']),
  dims: Type.Array(Type.Union([Count, Type.String({ minLength: 1 })]), { maxItems: 8 }),
});
const Graph = Strict({
  file: Type.String({ pattern: FILE_NAME }),
  inputs: Named('^.+$', Tensor),
  outputs: Named('^.+$', Tensor),
});
const Graphs = Named('^[a-z][a-z_]{0,63}$', Graph);

/** What every package says. */
const COMMON = {
  format: Type.Literal(FORMAT),
  name: Type.String({ pattern: MODEL_NAME }),
  language: Type.String({ minLength: 1 }),
  parameters: Count,
  precisions: Strict({
    int8: Type.Optional(Graphs),
    float32: Type.Optional(Graphs),
    /** For a GPU: other graphs than the CPU's, since the rows of a step stay on the device. */
    float16: Type.Optional(Graphs),
  }),
  provenance: Free,
  quality: Free,
  files: Named(
    FILE_NAME,
    Strict({ bytes: Type.Integer({ minimum: 0 }), sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) }),
  ),
};

const UniversalTransformerManifest = Strict({
  ...COMMON,
  family: Type.Literal('universal-transformer'),
  task: OneOf(TASKS),
  /** The language that a translation model translates into; `language` is then its source. */
  target_language: Type.Optional(Type.String({ minLength: 1 })),
  dimensions: Strict({ d_model: Count, heads: Count, d_ff: Count, vocab: Count, context: Count }),
  /** The one halting rule that the graphs and the engine implement; see reference/model-families.md for the others. */
  halting: Strict({
    act_type: Type.Literal('accumulated'),
    halted_state: Type.Literal('freeze'),
    forced_stop: Type.Literal('remainder'),
    /** Depths travel in one byte. */
    max_steps: Type.Integer({ minimum: 1, maximum: 255 }),
    threshold: Type.Number({ exclusiveMinimum: 0, maximum: 1 }),
  }),
  tokens: Strict({ bos: TokenId, eos: TokenId, pad: TokenId }),
});
export type UniversalTransformerManifest = Static<typeof UniversalTransformerManifest>;

const AdaptiveSpanManifest = Strict({
  ...COMMON,
  family: Type.Literal('adaptive-span'),
  task: Type.Literal('score'),
  dimensions: Strict({
    d_model: Count,
    heads: Count,
    d_ff: Count,
    vocab: Count,
    layers: Count,
    /** Keys that a head could look back at most, and the ramp of its mask. */
    span_max: Count,
    ramp: Count,
  }),
  span: Strict({
    /** One span a head, or one a token and head. */
    kind: OneOf(['adaptive', 'dynamic']),
    /** Keys of each layer and head: ceil(z S + R). */
    keys: Type.Array(Type.Array(Count)),
    /** Heads of a layer that share a pool as long as the widest of them. */
    groups: Type.Array(Type.Array(Strict({ heads: Type.Array(Type.Integer({ minimum: 0 })), span: Count }))),
  }),
  tokens: Strict({ bos: TokenId }),
  /** Ids are the bytes of UTF-8; vocabulary.json has which, where they are not all 256. */
  tokenizer: Type.Literal('bytes'),
});
export type AdaptiveSpanManifest = Static<typeof AdaptiveSpanManifest>;

const SCHEMAS = { 'universal-transformer': UniversalTransformerManifest, 'adaptive-span': AdaptiveSpanManifest };
export type Manifest = UniversalTransformerManifest | AdaptiveSpanManifest;

/** The graphs that a package of each kind needs; `finish_top` is `finish` with the k best candidates beside the targets. */
function graphsOf({ family, task }: Manifest): readonly string[] {
  if (family === 'adaptive-span') return ['step'];
  if (task === 'score') return ['begin', 'step', 'finish', 'finish_top'];
  return ['begin', 'encoder_step', 'encoder_finish', 'decoder_step', 'decoder_finish'];
}

export type Precision = (typeof PRECISIONS)[number];

/** A package that can't be served, and why; the message is one line that names the file and the remedy. */
export class PackageError extends Error {
  override readonly name = 'PackageError';
}

/** Free-form facts cross to the engine's thread, which copies nested objects by recursion. */
const FREE_LEVELS_MAX = 16;

const REMEDY = 're-export or restore it';

/** The message says what is wrong with `file` of a package; the remedy is always the same. */
export function damaged(file: string, what: string): PackageError {
  return new PackageError(`${file}: ${what}: ${REMEDY}`);
}

/**
 * The manifest in a text, checked against the schema and against itself. `folderName` is the name it must bear.
 * @throws PackageError
 */
export function parseManifest(json: string, folderName: string): Manifest {
  const value = parseJson(json);
  expectKnown(value);
  const schema = schemaOf(value);
  if (!Value.Check(schema, value)) throw damaged('manifest.json', explain(schema, value));
  const problem = contradiction(value, folderName);
  if (problem !== null) throw damaged('manifest.json', problem);
  return value;
}

function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch (error) {
    throw damaged('manifest.json', `not JSON (${(error as Error).message})`);
  }
}

/** A package of another version or family is not damaged; it gets the message that it is not for this server. */
function expectKnown(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  const known: Record<string, readonly string[]> = { format: [FORMAT], family: FAMILIES, task: TASKS };
  for (const [key, values] of Object.entries(known)) {
    const found = (value as Record<string, unknown>)[key];
    if (typeof found !== 'string' || values.includes(found)) continue;
    throw new PackageError(
      `manifest.json: unknown ${key} ${JSON.stringify(found.slice(0, 64))}, this version serves ${values.join(', ')}: ` +
        'upgrade ponder-serve or re-export the package',
    );
  }
}

/** Of a family that is unknown or no text the checks of the first schema say what is wrong. */
function schemaOf(value: unknown): TUnion<[typeof UniversalTransformerManifest, typeof AdaptiveSpanManifest]> {
  const family = (value as { family?: keyof typeof SCHEMAS } | null)?.family ?? 'universal-transformer';
  return (SCHEMAS[family] ?? UniversalTransformerManifest) as unknown as ReturnType<typeof schemaOf>;
}

/** The first schema error in words; of the errors of an alternative the last one says what was expected. */
function explain(schema: TSchema, value: unknown): string {
  const errors = Value.Errors(schema, value);
  const unknown = errors.find((error) => error.keyword === 'additionalProperties');
  if (unknown?.keyword === 'additionalProperties') {
    return `unknown key ${unknown.params.additionalProperties.slice(0, 8).join(', ')} in ${unknown.instancePath || '/'}`;
  }
  const [error] = errors;
  if (error === undefined) return 'invalid';
  const where = error.instancePath || '/';
  if (error.keyword === 'const') return `${where} must be ${JSON.stringify(error.params.allowedValue)}`;
  if (error.keyword === 'enum') return `${where} must be one of ${error.params.allowedValues.join(', ')}`;
  return `${where} ${error.message}`;
}

/** What the schema can't say: limits that must agree with each other. Null: nothing is wrong. */
function contradiction(manifest: Manifest, folderName: string): string | null {
  const { dimensions, tokens, files } = manifest;
  if (manifest.name !== folderName) return `name is ${manifest.name} but the folder is ${folderName}`;
  if (dimensions.d_model % dimensions.heads !== 0) {
    return `d_model (${dimensions.d_model}) is no multiple of heads (${dimensions.heads})`;
  }
  for (const [name, id] of Object.entries(tokens)) {
    if (id >= dimensions.vocab) return `token ${name} (${id}) is outside the vocabulary (${dimensions.vocab})`;
  }
  if (manifest.family === 'adaptive-span') {
    const problem = spanContradiction(manifest);
    if (problem !== null) return problem;
  } else if ((manifest.task === 'translate') !== (manifest.target_language !== undefined)) {
    return 'target_language belongs to a translation model, and to no other';
  }
  for (const precision of PRECISIONS) {
    const graphs = manifest.precisions[precision];
    if (graphs === undefined) continue;
    const missing = graphsOf(manifest).find((graph) => !Object.hasOwn(graphs, graph));
    if (missing !== undefined) return `precisions/${precision} has no graph ${missing}`;
  }
  if (PRECISIONS.every((precision) => manifest.precisions[precision] === undefined)) return 'precisions is empty';
  for (const key of ['provenance', 'quality'] as const) {
    if (nestsDeeper(manifest[key], FREE_LEVELS_MAX)) return `${key} nests deeper than ${FREE_LEVELS_MAX} levels`;
  }
  for (const file of requiredFiles(manifest)) {
    if (!Object.hasOwn(files, file)) return `files does not list ${file}`;
  }
  return null;
}

/** Every head in one group of its layer, and no group narrower than a head of it. */
function spanContradiction({ dimensions, span }: AdaptiveSpanManifest): string | null {
  const { layers, heads, span_max } = dimensions;
  if (span.keys.length !== layers || span.groups.length !== layers) return `span does not describe ${layers} layers`;
  for (const [layer, groups] of span.groups.entries()) {
    const keys = span.keys[layer] ?? [];
    const grouped = groups.flatMap((group) => group.heads).sort((a, b) => a - b);
    if (keys.length !== heads || grouped.length !== heads || grouped.some((head, i) => head !== i)) {
      return `span/groups of layer ${layer} do not hold each of ${heads} heads once`;
    }
    for (const group of groups) {
      if (group.span > span_max) return `a group of layer ${layer} is wider than span_max (${span_max})`;
      if (group.heads.some((head) => (keys[head] as number) > group.span)) {
        return `a head of layer ${layer} looks further than its group`;
      }
    }
  }
  return null;
}

function nestsDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => nestsDeeper(inner, levels - 1));
}

/** The files that serving needs by name. Weights are named within the graphs; they are checked like all others listed. */
function requiredFiles(manifest: Manifest): Set<string> {
  const graphs = PRECISIONS.flatMap((precision) => Object.values(manifest.precisions[precision] ?? {}));
  const files = graphs.map((graph) => graph.file);
  if (manifest.family !== 'adaptive-span') return new Set([...files, 'tokenizer.json']);
  return new Set(manifest.dimensions.vocab === 256 ? files : [...files, 'vocabulary.json']);
}
