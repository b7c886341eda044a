/** The field `input`: its four shapes as one list, every item checked before the first one is tokenised. */
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { SCORE_INPUT_ALLOWED, type ScoreBody } from './schemas.js';

/** One text to score, as text or as token ids. */
export type ScoreInput =
  | { readonly text: string; readonly param: string }
  | { readonly ids: Int32Array; readonly param: string };

export type InputLimits = Pick<Config, 'inputsMax' | 'textBytesMax' | 'queueTokensMax'> & {
  readonly vocabularySize: number;
};

/**
 * A text of a model with attention spans may be as long as a body: it is read block by block, so neither the limit on texts, which
 * guards windows, nor that on waiting tokens applies to it.
 */
export function inputLimits({ span, vocabularySize }: ModelDescription, config: Config): InputLimits {
  if (span === undefined) return { ...config, vocabularySize };
  const { inputsMax, bodyBytesMax } = config;
  return { inputsMax, textBytesMax: bodyBytesMax, queueTokensMax: bodyBytesMax, vocabularySize };
}

/** @throws ServerError INVALID_REQUEST or PAYLOAD_TOO_LARGE, naming the input at fault (`input`, or `input[3]` of a list) */
export function readInputs(input: ScoreBody['input'], limits: InputLimits, name = 'input'): ScoreInput[] {
  if (typeof input === 'string') return [textInput(input, name, limits)];
  if (input.length === 0) {
    throw new ServerError('INVALID_REQUEST', `${name} is an empty list; it must be ${SCORE_INPUT_ALLOWED}`, name);
  }
  if (typeof input[0] === 'number') return [idsInput(input as number[], name, limits)];
  checkCount(input.length, limits, name);
  return (input as (string | number[])[]).map((item, i) =>
    typeof item === 'string' ? textInput(item, `${name}[${i}]`, limits) : idsInput(item, `${name}[${i}]`, limits),
  );
}

function textInput(text: string, param: string, limits: InputLimits): ScoreInput {
  if (text === '') throw new ServerError('INVALID_REQUEST', `${param} is empty: send at least one character`, param);
  checkText(text, param, limits);
  return { text, param };
}

/** @throws ServerError PAYLOAD_TOO_LARGE or INVALID_REQUEST */
export function checkText(text: string, param: string, { textBytesMax }: Pick<Config, 'textBytesMax'>): void {
  if (Buffer.byteLength(text) > textBytesMax) {
    const message = `${param} exceeds ${textBytesMax} bytes: split the text (--text-bytes-max)`;
    throw new ServerError('PAYLOAD_TOO_LARGE', message, param);
  }
  // JSON can spell half a surrogate pair (\ud800), which no UTF-8 text holds: scoring a replacement would score another text.
  const lone = text.search(/\p{Surrogate}/u);
  if (lone >= 0) {
    const unit = text.charCodeAt(lone).toString(16).toUpperCase();
    const message = `${param} holds a lone surrogate (U+${unit}) at offset ${lone}: send well-formed Unicode text`;
    throw new ServerError('INVALID_REQUEST', message, param);
  }
}

/** @throws ServerError INVALID_REQUEST */
export function checkCount(count: number, { inputsMax }: Pick<Config, 'inputsMax'>, param = 'input'): void {
  if (count <= inputsMax) return;
  const message = `${param} holds ${count} texts, at most ${inputsMax} are allowed: split the request (--inputs-max)`;
  throw new ServerError('INVALID_REQUEST', message, param);
}

function idsInput(ids: readonly number[], param: string, limits: InputLimits): ScoreInput {
  if (ids.length === 0) throw new ServerError('INVALID_REQUEST', `${param} holds no tokens: send at least one`, param);
  if (ids.length > limits.queueTokensMax) throw tooManyTokens(ids.length, limits.queueTokensMax, param);
  const bad = ids.findIndex((id) => id < 0 || id >= limits.vocabularySize);
  if (bad >= 0) {
    const message = `${param} holds the token id ${ids[bad]} at place ${bad}; ids are 0 to ${limits.vocabularySize - 1}`;
    throw new ServerError('INVALID_REQUEST', message, param);
  }
  return { ids: Int32Array.from(ids), param };
}

export function tooManyTokens(tokens: number, queueTokensMax: number, param: string): ServerError {
  return new ServerError(
    'PAYLOAD_TOO_LARGE',
    `${param} needs windows of ${tokens} tokens in all, more than ${queueTokensMax} can ever wait: ` +
      'split it or use a larger stride (--queue-tokens-max)',
    param,
  );
}
