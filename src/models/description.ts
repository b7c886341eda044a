/**
 * One input or output of a graph: a number where the dimension is fixed, a name where it is symbolic. The runtime has the same
 * type as TensorSpec; it imports models, not the other way round.
 */
export interface TensorDescription {
  readonly type: 'float32' | 'float16' | 'int32' | 'int64' | 'bool' | 'uint8';
  readonly dims: readonly (number | string)[];
}

/** One ONNX graph of a package, as its manifest describes it; the session must agree. */
export interface GraphDescription {
  /** Name within the package's folder. */
  readonly file: string;
  readonly inputs: Readonly<Record<string, TensorDescription>>;
  readonly outputs: Readonly<Record<string, TensorDescription>>;
}

/** What the server tells about a loaded model, and what the main thread needs to turn text into windows. */
export interface ModelDescription {
  readonly id: string;
  readonly family: 'universal-transformer' | 'adaptive-span';
  readonly task: 'score' | 'translate';
  readonly language: string;
  /** What a translation model translates into; null for others. */
  readonly targetLanguage: string | null;
  readonly precision: 'int8' | 'float32' | 'float16';
  readonly vocabularySize: number;
  /** Positions of one window, `<s>` included; without limit for a model that carries a cache from block to block. */
  readonly contextTokens: number;
  /** Steps a position may take; 1 for a model of fixed depth. */
  readonly maxSteps: number;
  readonly threshold: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly parameters: number;
  /** How far heads look back, for a model whose heads have learned that. */
  readonly span?: SpanDescription;
  /** The graphs of `precision` by name; a family requires those it runs. */
  readonly graphs: Readonly<Record<string, GraphDescription>>;
  /** The graphs for a GPU, for a package that has them. */
  readonly deviceGraphs?: Readonly<Record<string, GraphDescription>>;
  /** Absolute folder of the package. */
  readonly folder: string;
  /** Provenance and measured quality, verbatim from the manifest. */
  readonly provenance: Readonly<Record<string, unknown>>;
  readonly quality: Readonly<Record<string, unknown>>;
  readonly createdAtUnix: number;
}

export interface SpanDescription {
  readonly kind: 'adaptive' | 'dynamic';
  /** Keys that a head could look back at most, and the ramp of its mask. */
  readonly spanMax: number;
  readonly ramp: number;
  /** Width of one head. */
  readonly headWidth: number;
  /** Multiplications of a token outside attention: the matrices of all layers, and the output. */
  readonly tokenMultiplications: number;
  /** Keys of each layer and head. */
  readonly keys: readonly (readonly number[])[];
  /** Heads of each layer that share a pool as long as the widest of them. */
  readonly groups: readonly (readonly { readonly heads: readonly number[]; readonly span: number }[])[];
}

/** A package that was refused, by name, with the reason; the others still serve. */
export interface RefusedModel {
  readonly id: string;
  readonly reason: string;
}
