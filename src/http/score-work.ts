/** From inputs to the windows that the engine scores. */
import type { Config } from '../config.js';
import type { ScoreWindow } from '../engine/protocol.js';
import { planWindows, type WindowSpan, windowCost } from '../engine/windows.js';
import { ServerError } from '../errors.js';
import type { Encoded, Tokenizer } from '../tokenize/types.js';
import { decodeWithOffsets } from './decode-offsets.js';
import { type ScoreInput, tooManyTokens } from './score-input.js';
import type { ScoreSettings } from './score-settings.js';

/** One input in tokens, with the windows that cover it. */
export interface TokenizedInput {
  readonly encoded: Encoded;
  readonly spans: readonly WindowSpan[];
}

export type WorkLimits = Pick<Config, 'queueLanesMax' | 'queueTokensMax'>;

/**
 * Tokenises the inputs in turn. The cost in windows and tokens is added up before any window is made, so that a request which
 * could never be admitted is refused while it is cheap.
 * @throws ServerError INVALID_REQUEST, PAYLOAD_TOO_LARGE, or CLIENT_CLOSED when `signal` aborts between two inputs
 */
export async function tokenizeInputs(
  inputs: readonly ScoreInput[],
  tokenizer: Tokenizer,
  settings: ScoreSettings,
  limits: WorkLimits,
  signal: AbortSignal,
): Promise<TokenizedInput[]> {
  const tokenized: TokenizedInput[] = [];
  let lanes = 0;
  let tokens = 0;
  for (const input of inputs) {
    const encoded = await encodeInput(input, tokenizer, signal);
    const count = encoded.ids.length;
    const cost = windowCost(count, settings.windowTokens, settings.strideTokens);
    lanes += cost.windows;
    tokens += cost.tokens;
    if (tokens > limits.queueTokensMax) throw tooManyTokens(tokens, limits.queueTokensMax, input.param);
    if (lanes > limits.queueLanesMax) {
      throw new ServerError(
        'PAYLOAD_TOO_LARGE',
        `the request needs more than ${limits.queueLanesMax} windows, which could never all wait: ` +
          'split it or use a larger stride (--queue-lanes-max)',
        input.param,
      );
    }
    tokenized.push({ encoded, spans: planWindows(count, settings.windowTokens, settings.strideTokens) });
  }
  return tokenized;
}

/** @throws ServerError INVALID_REQUEST, or CLIENT_CLOSED when `signal` has aborted */
export async function encodeInput(input: ScoreInput, tokenizer: Tokenizer, signal: AbortSignal): Promise<Encoded> {
  if (signal.aborted) throw new ServerError('CLIENT_CLOSED', 'the client closed the connection');
  const encoded = await ('text' in input
    ? tokenizer.encode(input.text).catch((error: unknown) => {
        throw error instanceof ServerError ? new ServerError(error.code, error.message, input.param) : error;
      })
    : decodeWithOffsets(tokenizer, input.ids));
  if (encoded.ids.length > 0) return encoded;
  throw new ServerError('INVALID_REQUEST', `${input.param} holds no tokens: send a longer text`, input.param);
}

/** The windows of all inputs, in order. They are copies: a view would drag its whole buffer across the thread boundary. */
export function windowsOf(inputs: readonly TokenizedInput[]): ScoreWindow[] {
  return inputs.flatMap(({ encoded, spans }) =>
    spans.map(({ start, end, scoreFrom }) => ({ ids: encoded.ids.slice(start, end), scoreFrom })),
  );
}
