/** The prompts of a completion as the token ids that the engine continues. */
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { CompletionBody } from './completion-schemas.js';
import type { CompletionSettings } from './completion-settings.js';
import { checkCount, readInputs } from './score-input.js';

export interface Prompt {
  /** As the client sent them, or as its text reads. */
  readonly ids: Int32Array;
  /** Leading ids that the engine puts there by itself: 1 for a prompt that spells the start of text, 0 otherwise. */
  readonly implied: number;
  readonly param: string;
}

/** Tokens and candidates of one reply with log-probabilities; each is an object until it is written. */
const LOGPROBS_MAX = 262_144;

type Limits = Pick<Config, 'inputsMax' | 'textBytesMax' | 'queueTokensMax' | 'queueLanesMax'>;

/** @throws ServerError INVALID_REQUEST, PAYLOAD_TOO_LARGE, or CLIENT_CLOSED when `signal` aborts between two prompts */
export async function readPrompts(
  prompt: CompletionBody['prompt'],
  model: ModelDescription,
  tokenizer: Tokenizer,
  settings: CompletionSettings,
  limits: Limits,
  signal: AbortSignal,
): Promise<Prompt[]> {
  const isList = typeof prompt !== 'string' && typeof prompt[0] !== 'number' && prompt.length > 0;
  const items = (isList ? prompt : [prompt]) as readonly (string | number[])[];
  const sequences = items.length * settings.choices;
  checkCount(sequences, limits, 'prompt');
  const inputLimits = { ...limits, vocabularySize: model.vocabularySize };
  // All are checked before the first one is tokenised.
  const checked = items.map((item, i) => {
    const param = isList ? `prompt[${i}]` : 'prompt';
    // The empty text is a prompt: it continues the start of a text.
    const [input] = item === '' ? [{ ids: new Int32Array(0) }] : readInputs(item, inputLimits, param);
    if (input === undefined) throw new Error(`${param} was read as nothing`);
    return { input, param };
  });
  const prompts: Prompt[] = [];
  let tokens = 0;
  for (const { input, param } of checked) {
    if (signal.aborted) throw new ServerError('CLIENT_CLOSED', 'the client closed the connection');
    const ids = 'text' in input ? (await tokenizer.encode(input.text)).ids : input.ids;
    const implied = model.eosId >= 0 && ids[0] === model.bosId ? 1 : 0;
    checkLength({ ids, implied, param }, model, settings);
    tokens += (ids.length + settings.maxNewTokens) * settings.choices;
    if (tokens > limits.queueTokensMax) throw tooLarge(param, tokens, limits);
    prompts.push({ ids, implied, param });
  }
  checkLogprobs(tokens, settings);
  return prompts;
}

/** The context holds prompt and new tokens; as many as fit are made when the client did not say how many it wants. */
function checkLength(
  { ids, implied, param }: Prompt,
  { contextTokens }: ModelDescription,
  settings: CompletionSettings,
): void {
  const length = ids.length - implied;
  const wanted = settings.maxNewTokensNamed ? settings.maxNewTokens : Math.min(1, settings.maxNewTokens);
  if (length + wanted <= contextTokens) return;
  if (settings.maxNewTokens === 0 || length > contextTokens) {
    const remedy = settings.maxNewTokens === 0 ? 'shorten it, or score it with POST /v1/score' : 'shorten the prompt';
    const message = `${param} has ${length} tokens, more than the model's context of ${contextTokens} tokens; ${remedy}`;
    throw new ServerError('INVALID_REQUEST', message, param);
  }
  const message =
    `${param} has ${length} tokens and max_tokens is ${settings.maxNewTokens}: together they exceed the model's context of ` +
    `${contextTokens} tokens; shorten the prompt or lower max_tokens`;
  throw new ServerError('INVALID_REQUEST', message, 'max_tokens');
}

function tooLarge(param: string, tokens: number, { queueTokensMax }: Limits): ServerError {
  const message =
    `up to ${param} the request needs ${tokens} tokens, new ones included, more than ${queueTokensMax} can ever wait: ` +
    'split it or lower max_tokens (--queue-tokens-max)';
  return new ServerError('PAYLOAD_TOO_LARGE', message, param);
}

function checkLogprobs(tokens: number, { logprobs }: CompletionSettings): void {
  if (logprobs === null || tokens * (1 + logprobs) <= LOGPROBS_MAX) return;
  const message =
    `logprobs of ${tokens} tokens with ${logprobs} candidates each are more than one reply holds (${LOGPROBS_MAX}): ` +
    'split the request, lower logprobs, or use POST /v1/score';
  throw new ServerError('PAYLOAD_TOO_LARGE', message, 'logprobs');
}
