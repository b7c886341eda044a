/** The JSON string of each token's text, made once per vocabulary entry: replies name the same few thousand tokens over and over. */
import type { Tokenizer } from '../tokenize/types.js';

const CACHES = new WeakMap<Tokenizer, (string | undefined)[]>();

/** Returns how to write a token's text as JSON, quotes included. Holds at most one string per id of the vocabulary. */
export function tokenJson(tokenizer: Tokenizer): (id: number) => string {
  let cache = CACHES.get(tokenizer);
  if (cache === undefined) {
    cache = new Array<string | undefined>(tokenizer.vocabularySize);
    CACHES.set(tokenizer, cache);
  }
  const texts = cache;
  return (id) => {
    texts[id] ??= JSON.stringify(tokenizer.tokenText(id));
    return texts[id] as string;
  };
}
