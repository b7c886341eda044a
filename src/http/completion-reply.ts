/** A completion as one reply: its choices written in pieces, so that a large one stops nobody. */
import type { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type { SequenceResult } from '../engine/protocol.js';
import type { Tokenizer } from '../tokenize/types.js';
import { type ChoiceSettings, ChoiceWriter, type Piece, type TokenLogprob } from './completion-choice.js';
import type { Prompt } from './completion-prompts.js';
import { joinOrStream, TOKENS_PER_PIECE } from './reply-pieces.js';

export interface Choice {
  readonly index: number;
  readonly text: string;
  readonly tokens: readonly TokenLogprob[];
  readonly finishReason: 'stop' | 'length';
}

/** @param prompt whose text the choice begins with; null: not asked for */
export async function writeChoice(
  index: number,
  prompt: Prompt | null,
  { prompt: promptScores, tokens: said, finishReason }: SequenceResult,
  tokenizer: Tokenizer,
  settings: ChoiceSettings,
): Promise<Choice> {
  const writer = new ChoiceWriter(tokenizer, settings);
  let text = '';
  let stopped = false;
  let pieces = 0;
  const tokens: TokenLogprob[] = [];
  const add = async (piece: Piece): Promise<void> => {
    text += piece.text;
    tokens.push(...piece.tokens);
    pieces += 1;
    if (pieces % TOKENS_PER_PIECE === 0) await setImmediate();
  };
  if (prompt !== null) {
    for (const [i, id] of prompt.ids.entries()) {
      // Nothing predicts the first token; the scores begin behind the start of text, if the client spelled it.
      await add(writer.promptToken(id, i === 0 ? null : promptScores, i - prompt.implied));
    }
    await add(writer.endPrompt());
  }
  for (let i = 0; i < said.ids.length && !stopped; i++) {
    const piece = writer.token(said.ids[i] as number, said, i);
    stopped = piece.stopped;
    await add(piece);
  }
  await add(writer.end());
  return { index, text, tokens, finishReason: stopped ? 'stop' : finishReason };
}

/** @param withDepths the model has depths to tell */
export function logprobsOf(tokens: readonly TokenLogprob[], withDepths: boolean) {
  return {
    tokens: tokens.map(({ token }) => token),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top }) => top),
    text_offset: tokens.map(({ offset }) => offset),
    ...(withDepths ? { depths: tokens.map(({ depth }) => depth ?? null) } : {}),
  };
}

/**
 * @param head of the reply, before its choices
 * @param tail of the reply, behind them
 */
export async function writeCompletion(
  head: object,
  choices: readonly Choice[],
  tail: object,
  logprobs: number | null,
): Promise<string | Readable> {
  const tokens = choices.reduce((sum, choice) => sum + choice.tokens.length, 0);
  // All tokens of a model have a depth, or none.
  const first = choices.find((choice) => choice.tokens.length > 0)?.tokens[0];
  const withDepths = first === undefined || first.depth !== undefined;
  const write = logprobs === null ? null : { withDepths };
  return joinOrStream(pieces(head, choices, tail, write), tokens * (1 + (logprobs ?? 0)));
}

function* pieces(
  head: object,
  choices: readonly Choice[],
  tail: object,
  logprobs: { readonly withDepths: boolean } | null,
): Generator<string> {
  yield `${JSON.stringify(head).slice(0, -1)},"choices":[`;
  for (const [i, { index, text, tokens, finishReason }] of choices.entries()) {
    yield `${i > 0 ? ',' : ''}{"index":${index},"text":${JSON.stringify(text)},"logprobs":`;
    if (logprobs === null) yield 'null';
    else yield* logprobPieces(tokens, logprobs.withDepths);
    yield `,"finish_reason":"${finishReason}"}`;
  }
  yield `],${JSON.stringify(tail).slice(1)}`;
}

function* logprobPieces(tokens: readonly TokenLogprob[], withDepths: boolean): Generator<string> {
  const fields = Object.keys(logprobsOf([], withDepths)) as (keyof ReturnType<typeof logprobsOf>)[];
  for (const [f, field] of fields.entries()) {
    yield `${f === 0 ? '{' : ','}"${field}":[`;
    for (let at = 0; at < tokens.length; at += TOKENS_PER_PIECE) {
      const part = logprobsOf(tokens.slice(at, at + TOKENS_PER_PIECE), withDepths)[field];
      yield (at > 0 ? ',' : '') + JSON.stringify(part).slice(1, -1);
    }
    yield ']';
  }
  yield '}';
}
