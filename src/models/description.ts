/** What the server tells about a loaded model, and what the main thread needs to turn text into windows. */
export interface ModelDescription {
  readonly id: string;
  readonly family: 'universal-transformer';
  readonly task: 'score';
  readonly language: string;
  readonly precision: 'int8' | 'float32';
  readonly vocabularySize: number;
  /** Positions of one window, `<s>` included. */
  readonly contextTokens: number;
  readonly maxSteps: number;
  readonly threshold: number;
  readonly bosId: number;
  readonly parameters: number;
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
