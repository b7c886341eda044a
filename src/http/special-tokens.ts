/** Text in which the names of the special tokens stand for these, as vLLM's `/tokenize` reads it; everywhere else a text is a text. */
import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';

export interface SpecialTokens {
  readonly bos: string | null;
  /** The end of text, or what begins one where the model has no end: clients need some token to start from. */
  readonly eos: string;
  /** Id by name. */
  readonly ids: ReadonlyMap<string, number>;
}

export function specialTokens(tokenizer: Tokenizer, { bosId, eosId }: ModelDescription): SpecialTokens {
  const bos = tokenizer.tokenText(bosId);
  // A model of bytes begins a text with an ordinary byte and has no end.
  if (eosId < 0) return { bos: null, eos: bos, ids: new Map() };
  const eos = tokenizer.tokenText(eosId);
  return {
    bos,
    eos,
    ids: new Map([
      [bos, bosId],
      [eos, eosId],
    ]),
  };
}

export async function encodeWithSpecials(
  text: string,
  tokenizer: Tokenizer,
  { ids }: SpecialTokens,
): Promise<number[]> {
  const tokens: number[] = [];
  let rest = text;
  while (rest !== '') {
    const [name, at] = firstName(rest, ids);
    for (const id of (await tokenizer.encode(rest.slice(0, at))).ids) tokens.push(id);
    if (name === null) break;
    tokens.push(ids.get(name) as number);
    rest = rest.slice(at + name.length);
  }
  return tokens;
}

function firstName(text: string, ids: ReadonlyMap<string, number>): readonly [string | null, number] {
  let first: readonly [string | null, number] = [null, text.length];
  for (const name of ids.keys()) {
    const at = text.indexOf(name);
    if (at >= 0 && at < first[1]) first = [name, at];
  }
  return first;
}

export function decodeWithSpecials(tokens: readonly number[], tokenizer: Tokenizer, { ids }: SpecialTokens): string {
  const names = new Map([...ids].map(([name, id]) => [id, Buffer.from(name)]));
  const bytes = Buffer.concat(tokens.map((id) => names.get(id) ?? tokenizer.textBytes(id)));
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
