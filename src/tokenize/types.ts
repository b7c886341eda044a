/** What the server needs of a tokenizer. `tokenizer.ts` implements it over `tokenizer.json`; tests implement it in a few lines. */

/** A text as token ids, without `<s>` or any other special token. */
export interface Encoded {
  /** [n] */
  readonly ids: Int32Array;
  /**
   * [n + 1] where each token begins in the text, in UTF-16 code units (as strings in JavaScript count); the last entry is
   * `text.length`. A token that holds a later part of a multi-byte character begins where that character begins.
   */
  readonly offsets: Int32Array;
  /** Length of the text in UTF-8 bytes: the denominator of bits per byte. */
  readonly bytes: number;
}

export interface Tokenizer {
  /**
   * Text to ids. Long text is encoded in slices with a turn of the event loop between them, so that no call blocks the
   * main thread for more than a few milliseconds.
   */
  encode(text: string): Promise<Encoded>;
  /** The text of a sequence of ids; bytes that are not valid UTF-8 become U+FFFD. Ids must be within the vocabulary. */
  decode(ids: ArrayLike<number>): string;
  /** The bytes that one token adds to a decoded text; none for a special token. Text that comes token by token is decoded from these. */
  textBytes(id: number): Uint8Array;
  /** The text of one token. U+FFFD stands for bytes that are only part of a multi-byte character. */
  tokenText(id: number): string;
  readonly vocabularySize: number;
}
