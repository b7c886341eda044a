/** What a translation is answered with: sums over its sentences, and their tokens in pieces. */
import type { Readable } from 'node:stream';
import { ServerError } from '../errors.js';
import type { TranslatedSentence, TranslatedText } from '../translate/types.js';
import { joinOrStream, TOKENS_PER_PIECE } from './reply-pieces.js';
import type { TranslateReply, TranslateResult, TranslateUsage } from './translate-schemas.js';

/**
 * Everything about one text but its tokens.
 * @throws ServerError INTERNAL if the model returned something that is no number: JSON could not say it
 */
export function summarizeText(index: number, translated: TranslatedText, maxSteps: number): TranslateResult {
  const { text, alternatives, finishReason, sentences } = translated;
  const finite =
    alternatives.every(({ score }) => Number.isFinite(score)) &&
    sentences.every(({ result }) => result.hypotheses[0]?.logprobs.every(Number.isFinite) ?? true);
  if (!finite) {
    throw new ServerError('INTERNAL', `the model returned a value that is not finite for input ${index}`);
  }
  return {
    index,
    text,
    alternatives: alternatives.map(({ text, score }) => ({ text, score })),
    finish_reason: finishReason,
    ponder: {
      encoder: ponderOf(
        sentences.map(({ result }) => result.encoderDepths),
        maxSteps,
      ),
      decoder: ponderOf(
        sentences.map(({ result }) => result.hypotheses[0]?.depths ?? []),
        maxSteps,
      ),
    },
  };
}

/** @param depths of the positions of each sentence */
function ponderOf(depths: readonly ArrayLike<number>[], maxSteps: number): TranslateResult['ponder']['encoder'] {
  const histogram = new Array<number>(maxSteps + 1).fill(0);
  let positions = 0;
  let steps = 0;
  for (const sentence of depths) {
    positions += sentence.length;
    for (let i = 0; i < sentence.length; i++) {
      const depth = sentence[i] as number;
      steps += depth;
      histogram[depth] = (histogram[depth] ?? 0) + 1;
    }
  }
  return {
    mean: positions === 0 ? 0 : steps / positions,
    max: Math.max(
      0,
      histogram.findLastIndex((count) => count > 0),
    ),
    histogram,
  };
}

export function translateUsage(texts: readonly TranslatedText[], maxSteps: number): TranslateUsage {
  const usage = { source_tokens: 0, target_tokens: 0, position_steps: 0, position_steps_fixed: 0 };
  for (const { sentences } of texts) {
    for (const { result, cost } of sentences) {
      usage.source_tokens += result.encoderDepths.length;
      usage.target_tokens += result.hypotheses[0]?.depths.length ?? 0;
      usage.position_steps += cost.encoderSteps + cost.decoderSteps;
      usage.position_steps_fixed += (cost.encoderPositions + cost.decoderPositions) * maxSteps;
    }
  }
  return usage;
}

/** @param texts whose tokens to write, or null to leave them out; one for each of `reply.results` */
export async function writeTranslateReply(
  reply: TranslateReply,
  texts: readonly TranslatedText[] | null,
): Promise<string | Readable> {
  if (texts === null) return JSON.stringify(reply);
  return joinOrStream(replyPieces(reply, texts), reply.usage.source_tokens + reply.usage.target_tokens);
}

function* replyPieces(
  { model, results, usage, timing, quality }: TranslateReply,
  texts: readonly TranslatedText[],
): Generator<string> {
  let text = `{"model":${JSON.stringify(model)},"results":[`;
  let tokensInText = 0;
  for (const [i, result] of results.entries()) {
    text += `${i > 0 ? ',' : ''}${JSON.stringify(result).slice(0, -1)}`;
    const sentences = texts[i]?.sentences ?? [];
    for (const list of ['tokens', 'source_tokens'] as const) {
      text += `,"${list}":[`;
      let comma = '';
      for (const sentence of sentences) {
        const tokens = TOKENS[list](sentence);
        if (tokens.length === 0) continue;
        text += comma + JSON.stringify(tokens).slice(1, -1);
        comma = ',';
        tokensInText += tokens.length;
        if (tokensInText < TOKENS_PER_PIECE) continue;
        yield text;
        text = '';
        tokensInText = 0;
      }
      text += ']';
    }
    text += '}';
  }
  const end = quality === undefined ? '' : `,"quality":${JSON.stringify(quality)}`;
  yield `${text}],"usage":${JSON.stringify(usage)},"timing":${JSON.stringify(timing)}${end}}`;
}

/** Made when they are written: a sentence computes them anew each time. */
const TOKENS = {
  tokens: ({ tokens }: TranslatedSentence) =>
    tokens.map(({ id, text, logprob, depth }) => ({ id, text, logprob, depth })),
  source_tokens: ({ sourceTokens }: TranslatedSentence) =>
    sourceTokens.map(({ id, text, depth }) => ({ id, text, depth })),
};

export function tokenLists(sentence: TranslatedSentence): object {
  return { tokens: TOKENS.tokens(sentence), source_tokens: TOKENS.source_tokens(sentence) };
}
