/** The reply about a text of any length: sums at once, tokens in pieces, straight from the typed arrays that the engine sent. */
import type { Readable } from 'node:stream';
import type { SpanBlockResult } from '../engine/protocol.js';
import type { Encoded, Tokenizer } from '../tokenize/types.js';
import { joinOrStream, TOKENS_PER_PIECE } from './reply-pieces.js';
import { topTexts } from './score-reply.js';
import type { SpanScoring } from './span-run.js';
import { tokenJson } from './token-json.js';

export interface TokenFields {
  readonly topLogprobs: number;
  readonly textOf: (id: number) => string;
}

/** @param returnTokens whether the scoring holds results to write the tokens from */
export async function writeSpanReply(
  { reply, encoded, results }: SpanScoring,
  returnTokens: boolean,
  topLogprobs: number,
  tokenizer: Tokenizer,
): Promise<string | Readable> {
  if (!returnTokens) return JSON.stringify(reply);
  const fields = { topLogprobs, textOf: tokenJson(tokenizer) };
  return joinOrStream(replyPieces(reply, encoded, results, fields), reply.usage.tokens * (1 + topLogprobs));
}

function* replyPieces(
  { results, ...rest }: SpanScoring['reply'],
  encoded: readonly Encoded[],
  tokens: readonly SpanBlockResult[],
  fields: TokenFields,
): Generator<string> {
  const step = Math.max(1, Math.floor(TOKENS_PER_PIECE / (1 + fields.topLogprobs)));
  let text = '{"results":[';
  for (const [i, result] of results.entries()) {
    text += `${i > 0 ? ',' : ''}${JSON.stringify(result).slice(0, -1)},"tokens":[`;
    const [input, scored] = [encoded[i], tokens[i]];
    if (input === undefined || scored?.logprobs.length !== input.ids.length) {
      throw new Error(`text ${i} has no result of its length`);
    }
    for (let from = 0; from < input.ids.length; from += step) {
      const to = Math.min(from + step, input.ids.length);
      yield `${text}${from > 0 ? ',' : ''}${tokensJson(input, scored, { from, to, at: 0 }, fields)}`;
      text = '';
    }
    text += ']}';
  }
  yield `${text}],${JSON.stringify(rest).slice(1)}`;
}

/**
 * Tokens `from` to `to` of a result as JSON, without the brackets; the result begins at token `at` of the text. Numbers are written
 * whole: they read back as the same float32.
 */
export function tokensJson(
  { ids, offsets }: Encoded,
  result: SpanBlockResult,
  { from, to, at }: { readonly from: number; readonly to: number; readonly at: number },
  { topLogprobs, textOf }: TokenFields,
): string {
  const texts: string[] = [];
  for (let i = from; i < to; i++) {
    const id = ids[at + i] as number;
    const span = result.spans.length > 0 ? `,"span":${result.spans[i]}` : '';
    const top = topLogprobs > 0 ? topTexts(result, i, topLogprobs, textOf) : '';
    texts.push(
      `{"id":${id},"text":${textOf(id)},"offset":${offsets[at + i]},"logprob":${result.logprobs[i]}${span}${top}}`,
    );
  }
  return texts.join(',');
}
