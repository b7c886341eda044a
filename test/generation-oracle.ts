/**
 * The plainest way to continue a text with a model without weights: the whole prefix anew for each token, no cache, no batch. The
 * model is the decoder of translation-oracle.ts with a fixed source; what a position does depends on the tokens up to it.
 */
import { chooseRank } from '../src/scheduler/sampling.js';
import type { SequenceRequest } from '../src/scheduler/sequence.js';
import { BOS, decoderDepth, nextLogprobs, prefixPrints, ranked } from './translation-oracle.js';

const CHARACTER = Int32Array.of(11);

/** Of each position that reads `<s>` and these tokens. */
export function printsOf(ids: readonly number[]): number[] {
  return prefixPrints(CHARACTER, [BOS, ...ids]);
}

/** [vocabulary] of the token after `<s>` and these. */
export function logprobsAfter(ids: readonly number[]): Float32Array {
  return nextLogprobs(CHARACTER, [BOS, ...ids]);
}

export interface Continuation {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  /** Of the positions that predict the prompt's tokens, and then the new ones. */
  readonly depths: readonly number[];
  readonly remainders: readonly number[];
  readonly finishReason: 'stop' | 'length';
  readonly positionSteps: number;
}

export type Continuing = Omit<SequenceRequest, 'jobId' | 'index'>;

export function continueAlone(request: Continuing): Continuation {
  const { prompt, budget, maxNewTokens, stopIds } = request;
  const said: { id: number; logprob: number }[] = [];
  let finishReason: 'stop' | 'length' = 'length';
  while (said.length < maxNewTokens && finishReason === 'length') {
    const all = logprobsAfter([...prompt, ...said.map(({ id }) => id)]);
    const order = ranked(all);
    const id = order[
      chooseRank(
        Float32Array.from(order, (i) => all[i] as number),
        request,
        said.length,
      )
    ] as number;
    said.push({ id, logprob: all[id] as number });
    if (stopIds.has(id)) finishReason = 'stop';
  }
  const text = [...prompt, ...said.map(({ id }) => id)];
  // Nobody reads the last token: position i reads the token before the one it predicts.
  const ponders =
    text.length === 0 ? [] : printsOf(text.slice(0, -1)).map((print, i) => decoderDepth(print, i, budget));
  return {
    ids: said.map(({ id }) => id),
    logprobs: said.map(({ logprob }) => logprob),
    depths: ponders.map(({ depth }) => depth),
    remainders: ponders.map(({ remainder }) => remainder),
    finishReason,
    positionSteps: ponders.reduce((sum, { depth }) => sum + depth, 0),
  };
}
