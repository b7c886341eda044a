/** A stretch of text whose sentences follow each other: a paragraph, a list item, what stands between two block tags. */
/** A tag or comment inside a block, where it stands in the block's text. */
export interface Mark {
  readonly at: number;
  /** As written in the source. */
  readonly raw: string;
  readonly kind: 'open' | 'close' | 'single';
  /** Lower case; '' of a comment. */
  readonly name: string;
  /** Where it begins in the source. */
  readonly offset: number;
}

export interface Block {
  /** With entities decoded, without marks. */
  readonly text: string;
  /** In the order of the source. */
  readonly marks: readonly Mark[];
  /** Offset in the source of a place in the text, after the marks there (`'after'`) or before them. */
  offsetOf(at: number, marks: 'before' | 'after'): number;
  /** Text as it may stand in the output. */
  encode(text: string): string;
}

/** What a document is made of, in order: its parts put together are the source. */
export type DocumentPart =
  | { readonly kind: 'literal'; readonly start: number; readonly end: number }
  | { readonly kind: 'block'; readonly start: number; readonly end: number; readonly block: Block };

/** A block of plain text that begins at `offset` of the source. */
export function plainBlock(text: string, offset: number): Block {
  return { text, marks: [], offsetOf: (at) => offset + at, encode: (translation) => translation };
}
