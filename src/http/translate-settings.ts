/** What a translation asks for beside its text, checked against the model and the limits of the server. */
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { TranslateInput } from '../translate/translate-texts.js';
import type { TranslateSettings } from '../translate/types.js';
import { atMost, readBudget } from './budget.js';
import { checkCount, checkText } from './score-input.js';
import { TRANSLATE_INPUT_ALLOWED, type TranslateBody } from './translate-schemas.js';

/**
 * Types and fixed ranges were checked by the schema; this checks what depends on the model and on other fields.
 * @throws ServerError INVALID_REQUEST
 */
export function translateSettings(body: TranslateBody, model: ModelDescription): TranslateSettings {
  const alternatives = body.alternatives ?? 0;
  const beam = body.beam ?? alternatives + 1;
  if (beam <= alternatives) {
    const message = `alternatives (${alternatives}) must be below beam (${beam}): raise beam or leave it out`;
    throw new ServerError('INVALID_REQUEST', message, 'alternatives');
  }
  const { contextTokens } = model;
  return {
    encoderBudget: readBudget(body, model, body.encoder, 'encoder'),
    decoderBudget: readBudget(body, model, body.decoder, 'decoder'),
    beam,
    alternatives,
    lengthPenalty: body.length_penalty ?? 1,
    maxNewTokens:
      body.max_new_tokens === undefined
        ? null
        : atMost('max_new_tokens', body.max_new_tokens, contextTokens, "the model's context"),
    format: body.format === 'html' ? 'html' : 'text',
  };
}

/**
 * Every member checked before the first one is tokenised. An empty one is fine: a list of lines may have empty lines.
 * @throws ServerError INVALID_REQUEST or PAYLOAD_TOO_LARGE, naming the member
 */
export function translateInputs(
  input: TranslateBody['input'],
  limits: Pick<Config, 'inputsMax' | 'textBytesMax'>,
  name = 'input',
): TranslateInput[] {
  if (Array.isArray(input) && input.length === 0) {
    throw new ServerError('INVALID_REQUEST', `${name} is an empty list; it must be ${TRANSLATE_INPUT_ALLOWED}`, name);
  }
  const texts = Array.isArray(input) ? input : [input];
  checkCount(texts.length, limits, name);
  return texts.map((text, i) => {
    const param = Array.isArray(input) ? `${name}[${i}]` : name;
    checkText(text, param, limits);
    return { text, param };
  });
}
