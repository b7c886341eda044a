/**
 * A translation model without weights, and the plainest way to translate with it: `translateAlone` computes one sentence with no
 * cache, no batch and the whole vocabulary, from the rules of reference/checkpoints.md and beam.ts' opening comment.
 *
 * The source decides what the decoder is like: some translations never end, some repeat themselves, in some many tokens tie.
 */
import type { Budget } from '../src/engine/protocol.js';
import type { FinishReason } from '../src/scheduler/beam.js';
import type { BestTokens, Decoded } from '../src/scheduler/decode-scheduler.js';
import { fingerprint, haltingProbability, haltingUpdate, hash01 } from './halting-oracle.js';

export const BOS = 1;
export const EOS = 2;
/** No fewer than the candidates of a beam of 8. */
export const VOCABULARY = 18;

/** Stands for the encoded source and the prefix up to each of its positions: all that a position of the decoder can depend on. */
export function prefixPrints(source: Int32Array, prefix: readonly number[]): number[] {
  let print = hash01(fingerprint(source), 3) * 2 ** 32;
  return prefix.map((id) => {
    print = hash01(print, id) * 2 ** 32;
    return print;
  });
}

/** The position's N and R, from nothing but its budget. */
export function decoderDepth(print: number, position: number, { maxSteps, minSteps, threshold }: Budget) {
  let sum = 0;
  for (let depth = 1; ; depth++) {
    const p = haltingProbability(print, position, depth);
    const update = haltingUpdate(p, sum, threshold, depth >= maxSteps, depth < minSteps);
    if (update.halted) return { depth, remainder: update.remainder };
    sum = update.sum;
  }
}

/** [vocabulary] log-probabilities of the token after `prefix`, which begins with `<s>`. */
export function nextLogprobs(source: Int32Array, prefix: readonly number[]): Float32Array {
  const character = fingerprint(source);
  const print = prefixPrints(source, prefix).at(-1) as number;
  const isStutterer = hash01(character, 1) < 0.15;
  const hasTies = hash01(character, 2) < 0.3;
  const brevity = hash01(character, 4) < 0.2 ? -20 : hash01(character, 5);
  const period = 1 + Math.floor(8 * hash01(character, 6));
  const stuttered = 3 + (prefix.length % period);
  const logits = Array.from({ length: VOCABULARY }, (_, id) => {
    const own = 5 * hash01(print, id) + (id === EOS ? brevity * prefix.length - 1 : 0);
    const said = isStutterer && id === stuttered ? own + 8 : own;
    return hasTies ? Math.round(said) : said;
  });
  const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0));
  return Float32Array.from(logits, (logit) => logit - total);
}

/** Ids by falling log-probability, ties by id, as the graph's TopK gives them. */
export function ranked(logprobs: Float32Array): number[] {
  return Array.from(logprobs.keys()).sort((a, b) => (logprobs[b] as number) - (logprobs[a] as number) || a - b);
}

export function bestTokens(source: Int32Array, prefixes: readonly (readonly number[])[], k: number): BestTokens {
  const all = prefixes.map((prefix) => nextLogprobs(source, prefix));
  const ids = all.map((logprobs) => ranked(logprobs).slice(0, k));
  return {
    ids: Int32Array.from(ids.flat()),
    logprobs: Float32Array.from(ids.flatMap((best, i) => best.map((id) => all[i]?.[id] as number))),
    k,
  };
}

export interface SentenceSettings {
  readonly budget: Budget;
  readonly beam: number;
  readonly lengthPenalty: number;
  readonly maxNewTokens: number;
}

export interface Alone {
  readonly best: readonly Decoded[];
  readonly positionSteps: number;
  readonly positions: number;
}

type Said = Pick<Decoded, 'ids' | 'logprobs' | 'depths'> & { readonly total: number };

/** The last 32 tokens are their own first p again and again, for some p up to 8. */
export function stutters(ids: readonly number[]): boolean {
  const tail = ids.slice(-32).join(',');
  const periods = [1, 2, 3, 4, 5, 6, 7, 8].map((period) => ids.slice(-32).slice(0, period));
  return (
    ids.length >= 32 &&
    periods.some((start) => Array.from({ length: 32 }, (_, i) => start[i % start.length]).join(',') === tail)
  );
}

export function translateAlone(source: Int32Array, settings: SentenceSettings): Alone {
  const { budget, beam, lengthPenalty, maxNewTokens } = settings;
  const ended: Decoded[] = [];
  let live: Said[] = [{ ids: [], logprobs: [], depths: [], total: 0 }];
  let positionSteps = 0;
  let positions = 0;
  const end = ({ total, ...said }: Said, finishReason: FinishReason) => {
    ended.push({ ...said, score: total / said.logprobs.length ** lengthPenalty, finishReason });
  };
  while (live.length > 0) {
    const continued = live.flatMap((said, from) => {
      const prefix = [BOS, ...said.ids];
      const { depth } = decoderDepth(prefixPrints(source, prefix).at(-1) as number, prefix.length - 1, budget);
      positions += 1;
      positionSteps += depth;
      return Array.from(nextLogprobs(source, prefix), (logprob, id) => ({ said, from, depth, id, logprob }));
    });
    const score = ({ said, logprob }: (typeof continued)[number]) => said.total + logprob;
    continued.sort((a, b) => score(b) - score(a) || a.from - b.from || b.logprob - a.logprob || a.id - b.id);
    const next = continued.slice(0, 2 * beam).map(({ said, depth, id, logprob }, rank) => {
      const logprobs = [...said.logprobs, logprob];
      const depths = [...said.depths, depth];
      const total = said.total + logprob;
      return { rank, id, said: { ids: id === EOS ? said.ids : [...said.ids, id], logprobs, depths, total } };
    });
    for (const { rank, id, said } of next) if (id === EOS && rank < beam) end(said, 'stop');
    live = [];
    if (ended.length >= beam) break;
    for (const { said } of next.filter(({ id }) => id !== EOS).slice(0, beam)) {
      if (said.ids.length === maxNewTokens) end(said, 'length');
      else if (stutters(said.ids)) end(said, 'repetition');
      else live.push(said);
    }
    if (ended.length >= beam) break;
  }
  // Array.prototype.sort is stable: of equal scores the one that ended first.
  return { best: ended.toSorted((a, b) => b.score - a.score).slice(0, beam), positionSteps, positions };
}
