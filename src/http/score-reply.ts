/**
 * The reply to a scoring request. Sums are small and made at once; the tokens may be hundreds of thousands, so they are written
 * in pieces, straight from the typed arrays that the engine sent: an object per token would cost ten times the memory.
 */
import type { Readable } from 'node:stream';
import type { ScoreWindowResult } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { Tokenizer } from '../tokenize/types.js';
import { joinOrStream, TOKENS_PER_PIECE } from './reply-pieces.js';
import type { ScoreReply, ScoreResult, Usage } from './schemas.js';
import type { TokenizedInput } from './score-work.js';
import { tokenJson } from './token-json.js';

/** One input with the results of its windows, span by span. */
export interface ScoredInput extends TokenizedInput {
  readonly results: readonly ScoreWindowResult[];
}

/** Deals the results, which come in the order of the windows, out to the inputs. */
export function dealResults(inputs: readonly TokenizedInput[], results: readonly ScoreWindowResult[]): ScoredInput[] {
  let next = 0;
  return inputs.map((input) => {
    const first = next;
    next += input.spans.length;
    return { ...input, results: results.slice(first, next) };
  });
}

/**
 * Everything about one input but its tokens.
 * @throws ServerError INTERNAL if the model returned something that is no number: JSON could not say it
 */
export function summarize(index: number, { encoded, spans, results }: ScoredInput, maxSteps: number): ScoreResult {
  const tokens = encoded.ids.length;
  const histogram = new Array<number>(maxSteps + 1).fill(0);
  let logprob = 0;
  let steps = 0;
  let remainders = 0;
  let finite = true;
  for (const result of results) {
    finite &&= result.topLogprobs.every(Number.isFinite);
    for (let i = 0; i < result.logprobs.length; i++) {
      const depth = result.depths[i] ?? 0;
      logprob += result.logprobs[i] ?? Number.NaN;
      remainders += result.remainders[i] ?? Number.NaN;
      steps += depth;
      histogram[depth] = (histogram[depth] ?? 0) + 1;
    }
  }
  if (!finite || !Number.isFinite(logprob) || !Number.isFinite(remainders)) {
    throw new ServerError('INTERNAL', `the model returned a value that is not finite for input ${index}`);
  }
  return {
    index,
    logprob,
    bytes: encoded.bytes,
    bits_per_byte: encoded.bytes === 0 ? null : -logprob / (encoded.bytes * Math.LN2),
    perplexity: Math.min(Math.exp(-logprob / tokens), Number.MAX_VALUE),
    windows: spans.length,
    ponder: {
      mean: steps / tokens,
      max: histogram.findLastIndex((count) => count > 0),
      cost: (steps + remainders) / tokens,
      histogram,
    },
  };
}

export function usageOf(inputs: readonly ScoredInput[], maxSteps: number): Usage {
  let tokens = 0;
  let positions = 0;
  let positionSteps = 0;
  for (const { encoded, spans, results } of inputs) {
    tokens += encoded.ids.length;
    for (const { start, end } of spans) positions += end - start;
    for (const result of results) positionSteps += result.positionSteps;
  }
  return { tokens, position_steps: positionSteps, position_steps_fixed: positions * maxSteps };
}

/** @param inputs whose tokens to write, or null to leave them out; one for each of `reply.results` */
export async function writeReply(
  reply: ScoreReply,
  inputs: readonly ScoredInput[] | null,
  topLogprobs: number,
  tokenizer: Tokenizer,
): Promise<string | Readable> {
  if (inputs === null) return JSON.stringify(reply);
  const pieces = replyPieces(reply, inputs, topLogprobs, tokenizer);
  // Each alternative costs about as much to write as a token of its own.
  return joinOrStream(pieces, reply.usage.tokens * (1 + topLogprobs));
}

function* replyPieces(
  { model, results, usage, timing, quality }: ScoreReply,
  inputs: readonly ScoredInput[],
  topLogprobs: number,
  tokenizer: Tokenizer,
): Generator<string> {
  const textOf = tokenJson(tokenizer);
  let text = `{"model":${JSON.stringify(model)},"results":[`;
  let tokensInText = 0;
  for (const [i, result] of results.entries()) {
    text += `${i > 0 ? ',' : ''}${JSON.stringify(result).slice(0, -1)},"tokens":[`;
    const input = inputs[i];
    if (input === undefined) throw new Error(`result ${i} has no input`);
    for (const token of tokenTexts(input, topLogprobs, textOf)) {
      text += token;
      tokensInText += 1 + topLogprobs;
      if (tokensInText >= TOKENS_PER_PIECE) {
        yield text;
        text = '';
        tokensInText = 0;
      }
    }
    text += ']}';
  }
  yield `${text}],"usage":${JSON.stringify(usage)},"timing":${JSON.stringify(timing)}${quality === undefined ? '' : `,"quality":${JSON.stringify(quality)}`}}`;
}

/** Each token as JSON, with the comma that precedes it. Numbers are written whole: they read back as the same float32. */
function* tokenTexts(
  { encoded, spans, results }: ScoredInput,
  topLogprobs: number,
  textOf: (id: number) => string,
): Generator<string> {
  let token = 0;
  for (const [w, span] of spans.entries()) {
    const result = results[w];
    if (result === undefined || result.logprobs.length !== span.end - span.start - span.scoreFrom) {
      throw new Error(`window ${w} has no result of its length`);
    }
    for (let i = 0; i < result.logprobs.length; i++, token++) {
      const id = encoded.ids[token] as number;
      yield `${token > 0 ? ',' : ''}{"id":${id},"text":${textOf(id)},` +
        `"offset":${encoded.offsets[token]},"logprob":${result.logprobs[i]},"depth":${result.depths[i]},` +
        `"remainder":${result.remainders[i]}${topLogprobs > 0 ? topTexts(result, i, topLogprobs, textOf) : ''}}`;
    }
  }
}

/** The field `top_logprobs` of token i, with the comma that precedes it. */
export function topTexts(
  result: Pick<ScoreWindowResult, 'topIds' | 'topLogprobs'>,
  i: number,
  topLogprobs: number,
  textOf: (id: number) => string,
): string {
  const tops: string[] = [];
  for (let k = i * topLogprobs; k < (i + 1) * topLogprobs; k++) {
    const id = result.topIds[k] as number;
    tops.push(`{"id":${id},"text":${textOf(id)},"logprob":${result.topLogprobs[k]}}`);
  }
  return `,"top_logprobs":[${tops.join(',')}]`;
}
