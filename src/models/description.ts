/**
 * One input or output of a graph: a number where the dimension is fixed, a name where it is symbolic. The runtime has the same
 * type as TensorSpec; it imports models, not the other way round.
 */
export interface TensorDescription {
  readonly type: 'float32' | 'int32' | 'int64' | 'bool' | 'uint8';
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
  readonly family: 'universal-transformer';
  readonly task: 'score' | 'translate';
  readonly language: string;
  /** What a translation model translates into; null for others. */
  readonly targetLanguage: string | null;
  readonly precision: 'int8' | 'float32';
  readonly vocabularySize: number;
  /** Positions of one window, `<s>` included. */
  readonly contextTokens: number;
  readonly maxSteps: number;
  readonly threshold: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly parameters: number;
  /** The graphs of `precision` by name; a family requires those it runs. */
  readonly graphs: Readonly<Record<string, GraphDescription>>;
  /** Absolute folder of the package. */
  readonly folder: string;
  /** Provenance and measured quality, verbatim from the manifest. */
  readonly provenance: Readonly<Record<string, unknown>>;
  readonly quality: Readonly<Record<string, unknown>>;
  readonly createdAtUnix: number;
}

/** A package that was refused, by name, with the reason; the others still serve. */
export interface RefusedModel {
  readonly id: string;
  readonly reason: string;
}
