/**
 * Which token a sequence says next, as a pure function of the model's log-probabilities, the settings, the seed and how many tokens came
 * before: nothing else in the batch, and no generator with a state, so that the same request says the same again.
 */

export interface Sampling {
  /** 0: the best. Else log-probabilities are divided by it. */
  readonly temperature: number;
  /** Of the tokens, best first, the fewest whose probabilities after temperature reach this sum; 1: all. */
  readonly topP: number;
  readonly seed: number;
}

/**
 * The rank of the token chosen.
 * @param logprobs of all tokens, best first; for temperature 0 the first alone will do
 * @param turn how many tokens the sequence has said
 */
export function chooseRank(logprobs: Float32Array, { temperature, topP, seed }: Sampling, turn: number): number {
  if (temperature === 0) return 0;
  const best = logprobs[0] as number;
  const weights = Float64Array.from(logprobs, (logprob) => Math.exp((logprob - best) / temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0;
  let count = 0;
  while (count < weights.length && (count === 0 || kept < topP * total)) kept += weights[count++] as number;
  // Inverse of the cumulative distribution. The last token is what rounding leaves over.
  let left = uniform(seed, turn) * kept;
  for (let rank = 0; rank < count - 1; rank++) {
    left -= weights[rank] as number;
    if (left < 0) return rank;
  }
  return count - 1;
}

/** In [0, 1), 53 bits, the same for the same integers on every machine. */
export function uniform(seed: number, turn: number): number {
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) >>> 0;
  const key = mix(mix(mix(low) ^ high) ^ turn);
  const [first, second] = [mix(key ^ 0x9e3779b9), mix(key + 0x7f4a7c15)];
  return ((first >>> 6) * 2 ** 27 + (second >>> 5)) / 2 ** 53;
}

/** The finaliser of MurmurHash3, with an offset so that 0 does not stay 0. */
function mix(value: number): number {
  let h = (value + 0x6d2b79f5) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
