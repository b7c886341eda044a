/**
 * Reads tokenizer.json (the format of Hugging Face tokenizers) into tables. Only what this server computes exactly is
 * accepted: byte-level BPE with digits alone, normalised to NFC or not at all. Any other setting is refused by name: a
 * tokenizer that is nearly the right one gives plausible scores of the wrong tokens.
 */
import { type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import type { PairMerge } from './byte-pairs.js';

export interface TokenizerTables {
  readonly normalization: 'none' | 'nfc';
  /** [vocabulary] the bytes each id stands for; a special token stands for its name. */
  readonly tokenBytes: readonly Uint8Array[];
  /** [256] the id of each single byte. */
  readonly byteIds: Int32Array;
  /** In order of rank. */
  readonly merges: readonly PairMerge[];
  /** Ids that no text produces and that `decode` leaves out. */
  readonly specialIds: ReadonlySet<number>;
}

const ByteLevel = { type: Type.Literal('ByteLevel'), trim_offsets: Type.Optional(Type.Boolean()) };
/** A setting that must be absent, null, or of one harmless value. */
const Unset = (...harmless: TSchema[]) => Type.Optional(Type.Union([Type.Null(), ...harmless]));

const TokenizerFile = Type.Object({
  version: Type.Optional(Type.String()),
  truncation: Unset(),
  padding: Unset(),
  added_tokens: Type.Array(
    Type.Object({ id: Type.Integer({ minimum: 0 }), content: Type.String(), special: Type.Literal(true) }),
  ),
  normalizer: Type.Optional(Type.Union([Type.Null(), Type.Object({ type: Type.Literal('NFC') })])),
  pre_tokenizer: Type.Object({
    type: Type.Literal('Sequence'),
    pretokenizers: Type.Tuple([
      Type.Object({ type: Type.Literal('Digits'), individual_digits: Type.Literal(true) }),
      Type.Object({
        ...ByteLevel,
        add_prefix_space: Type.Literal(false),
        use_regex: Type.Optional(Type.Literal(true)),
      }),
    ]),
  }),
  post_processor: Unset(Type.Object(ByteLevel)),
  decoder: Type.Object(ByteLevel),
  model: Type.Object({
    type: Type.Literal('BPE'),
    dropout: Unset(),
    unk_token: Unset(),
    continuing_subword_prefix: Unset(),
    end_of_word_suffix: Unset(),
    fuse_unk: Type.Optional(Type.Literal(false)),
    byte_fallback: Type.Optional(Type.Literal(false)),
    ignore_merges: Type.Optional(Type.Literal(false)),
    vocab: Type.Record(Type.String(), Type.Integer({ minimum: 0 })),
    merges: Type.Array(Type.Union([Type.Tuple([Type.String(), Type.String()]), Type.String()])),
  }),
});
type Ids = ReadonlyMap<string, number>;

/** Throws an Error that says what is not understood. */
export function parseTokenizerFile(json: string): TokenizerTables {
  const file: unknown = JSON.parse(json);
  if (!Value.Check(TokenizerFile, file)) {
    const [error] = Value.Errors(TokenizerFile, file);
    throw new Error(
      `${error?.instancePath || '/'} ${error?.message ?? 'is invalid'}; only byte-level BPE with single digits is supported`,
    );
  }
  const specials = new Map(file.added_tokens.map((token) => [token.content, token.id]));
  const vocabulary = new Map([...Object.entries(file.model.vocab), ...specials]);
  return {
    normalization: file.normalizer ? 'nfc' : 'none',
    tokenBytes: bytesOfTokens(vocabulary, specials),
    byteIds: idsOfBytes(vocabulary),
    merges: file.model.merges.map((merge) => pairMerge(merge, vocabulary)),
    specialIds: new Set(specials.values()),
  };
}

function bytesOfTokens(ids: Ids, specials: Ids): Uint8Array[] {
  const tokenBytes: Uint8Array[] = new Array(ids.size);
  for (const [token, id] of ids) {
    if (id >= ids.size || tokenBytes[id] !== undefined)
      throw new Error(`token ids must be 0 ... ${ids.size - 1}, each once; ${id} is not`);
    tokenBytes[id] = specials.has(token) ? new TextEncoder().encode(token) : bytesOfSymbols(token);
  }
  return tokenBytes;
}

/**
 * The printable stand-ins for bytes that byte-level vocabularies are written with (GPT-2's `bytes_to_unicode`): bytes that
 * print in Latin-1 stand for themselves, the other 68 follow from U+0100 in order.
 */
const SYMBOLS: readonly string[] = (() => {
  let others = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(prints ? byte : others++);
  });
})();
const BYTE_OF_SYMBOL: ReadonlyMap<string, number> = new Map(SYMBOLS.map((symbol, byte) => [symbol, byte]));

function bytesOfSymbols(token: string): Uint8Array {
  return Uint8Array.from([...token], (symbol) => {
    const byte = BYTE_OF_SYMBOL.get(symbol);
    if (byte === undefined) throw new Error(`token ${JSON.stringify(token)} is not written in byte-level symbols`);
    return byte;
  });
}

function idsOfBytes(ids: Ids): Int32Array {
  return Int32Array.from(SYMBOLS, (symbol, byte) => {
    const id = ids.get(symbol);
    if (id === undefined) throw new Error(`byte ${byte} has no token, so some text could not be encoded`);
    return id;
  });
}

function pairMerge(merge: string | [string, string], ids: Ids): PairMerge {
  const [left = '', right = ''] = typeof merge === 'string' ? merge.split(' ') : merge;
  const [leftId, rightId, mergedId] = [ids.get(left), ids.get(right), ids.get(left + right)];
  if (leftId === undefined || rightId === undefined || mergedId === undefined) {
    throw new Error(`merge ${JSON.stringify([left, right])} has parts outside the vocabulary`);
  }
  return { left: leftId, right: rightId, merged: mergedId };
}
