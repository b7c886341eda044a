/**
 * Beam search as a pure function of the candidates: which hypotheses live on and which are done. A beam of 1 is greedy decoding.
 *
 * A hypothesis scores the sum of its log-probabilities over length^lengthPenalty (Wu et al. 2016, arXiv 1609.08144, section 7, with
 * the plain power that fairseq and CTranslate2 use). Of the best 2 * beam continuations an end of sentence among the first
 * `beam` finishes its hypothesis, and the best `beam` others live on; the search ends when `beam` have finished.
 */

export type FinishReason = 'stop' | 'length' | 'repetition';

export interface Candidate {
  /** Index of the hypothesis it continues. */
  readonly from: number;
  readonly id: number;
  /** Nats, of this token and of the whole hypothesis. */
  readonly logprob: number;
  readonly total: number;
}

export interface Choice {
  readonly live: readonly Candidate[];
  readonly ended: readonly Candidate[];
}

export function candidatesPerHypothesis(beam: number): number {
  return beam === 1 ? 1 : 2 * beam;
}

/**
 * @param totals score of each live hypothesis
 * @param ids, logprobs [hypotheses, k] best tokens of each, best first
 */
export function chooseCandidates(
  totals: readonly number[],
  ids: Int32Array,
  logprobs: Float32Array,
  k: number,
  beam: number,
  eosId: number,
): Choice {
  const candidates: Candidate[] = [];
  totals.forEach((total, from) => {
    for (let rank = 0; rank < k; rank++) {
      const logprob = logprobs[from * k + rank] as number;
      candidates.push({ from, id: ids[from * k + rank] as number, logprob, total: total + logprob });
    }
  });
  // A stable sort: ties go to the earlier hypothesis and the better rank.
  candidates.sort((a, b) => b.total - a.total);
  const live: Candidate[] = [];
  const ended: Candidate[] = [];
  candidates.slice(0, 2 * beam).forEach((candidate, rank) => {
    if (candidate.id !== eosId) {
      if (live.length < beam) live.push(candidate);
    } else if (rank < beam) {
      ended.push(candidate);
    }
  });
  return { live, ended };
}

export function normalisedScore(total: number, length: number, lengthPenalty: number): number {
  return total / length ** lengthPenalty;
}

// A translation that says the same few words for this long will not say anything else.
const REPEATED_TOKENS = 32;
const PERIOD_TOKENS_MAX = 8;

/** Whether the last tokens are nothing but repetitions of up to 8 tokens. */
export function repeatsItself(ids: readonly number[]): boolean {
  if (ids.length < REPEATED_TOKENS) return false;
  const tail = ids.slice(-REPEATED_TOKENS);
  for (let period = 1; period <= PERIOD_TOKENS_MAX; period++) {
    if (tail.every((id, i) => i < period || id === tail[i - period])) return true;
  }
  return false;
}
