import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';

export function tokenizerOf(tokenizers: ReadonlyMap<string, Tokenizer>, model: ModelDescription): Tokenizer {
  const tokenizer = tokenizers.get(model.id);
  if (tokenizer === undefined) throw new Error(`model ${model.id} was loaded without its tokenizer`);
  return tokenizer;
}
