/** What translating a stretch of a sentence gives, and how stretches are put together. */
import type { SentenceResult, TranslationHypothesis } from '../engine/protocol.js';
import type { TranslateCost, TranslatedSentence } from './types.js';

/** One sequence of the engine: what went in, and what came out with the chosen hypothesis first. */
export interface LaneRecord {
  /** Without `</s>`. */
  readonly sourceIds: Int32Array;
  readonly result: SentenceResult;
}

export interface Candidate {
  /** As it goes into the output. */
  readonly text: string;
  readonly score: number;
}

export interface Translation {
  /** Best first; at least one. */
  readonly candidates: readonly Candidate[];
  /** Of the attempt that was chosen; empty of text that came back as it is. */
  readonly lanes: readonly LaneRecord[];
  /** Of all attempts. */
  readonly cost: TranslateCost;
}

export const NO_COST: TranslateCost = {
  lanes: 0,
  encoderPositions: 0,
  encoderSteps: 0,
  decoderPositions: 0,
  decoderSteps: 0,
};

export function addCosts(a: TranslateCost, b: TranslateCost): TranslateCost {
  return {
    lanes: a.lanes + b.lanes,
    encoderPositions: a.encoderPositions + b.encoderPositions,
    encoderSteps: a.encoderSteps + b.encoderSteps,
    decoderPositions: a.decoderPositions + b.decoderPositions,
    decoderSteps: a.decoderSteps + b.decoderSteps,
  };
}

export function costOf({ encoderDepths, encoderSteps, decoderPositions, decoderSteps }: SentenceResult): TranslateCost {
  return { lanes: 1, encoderPositions: encoderDepths.length, encoderSteps, decoderPositions, decoderSteps };
}

/** Text that is not translated. */
export function literal(text: string): Translation {
  return { candidates: [{ text, score: 0 }], lanes: [], cost: NO_COST };
}

/** One after another; the k-th of the whole is the k-th of each, or the last where one has fewer. */
export function concatenate(parts: readonly Translation[]): Translation {
  const count = Math.max(1, ...parts.map(({ candidates }) => candidates.length));
  const scored = parts.filter(({ lanes }) => lanes.length > 0);
  const candidates = Array.from({ length: count }, (_, k) => {
    const score = scored.reduce((sum, part) => sum + nth(part, k).score, 0) / Math.max(1, scored.length);
    return { text: parts.map((part) => nth(part, k).text).join(''), score };
  });
  return {
    candidates,
    lanes: parts.flatMap(({ lanes }) => lanes),
    cost: parts.reduce((sum, { cost }) => addCosts(sum, cost), NO_COST),
  };
}

export function nth({ candidates }: Pick<Translation, 'candidates'>, k: number): Candidate {
  return candidates[Math.min(k, candidates.length - 1)] as Candidate;
}

/** The result of a sentence that took several lanes, as if it had been one. */
export function mergedResult(lanes: readonly LaneRecord[], score: number): SentenceResult {
  const [first, ...more] = lanes.map(({ result }) => result);
  if (first !== undefined && more.length === 0) return first;
  const results = lanes.map(({ result }) => result);
  const best = results.map(({ hypotheses }) => hypotheses[0] as TranslationHypothesis);
  const sum = (of: (result: SentenceResult) => number): number => results.reduce((total, r) => total + of(r), 0);
  return {
    hypotheses: [
      {
        ids: Int32Array.from(best.flatMap(({ ids }) => [...ids])),
        logprobs: Float32Array.from(best.flatMap(({ logprobs }) => [...logprobs])),
        depths: Uint8Array.from(best.flatMap(({ depths }) => [...depths])),
        score,
        finishReason: worstReason(best.map(({ finishReason }) => finishReason)),
      },
    ],
    encoderDepths: Uint8Array.from(results.flatMap(({ encoderDepths }) => [...encoderDepths])),
    encoderSteps: sum(({ encoderSteps }) => encoderSteps),
    decoderSteps: sum(({ decoderSteps }) => decoderSteps),
    decoderPositions: sum(({ decoderPositions }) => decoderPositions),
    firstTokenAtMs: results.reduce((least, r) => Math.min(least, r.firstTokenAtMs), Number.POSITIVE_INFINITY),
  };
}

const WORST_FIRST = ['repetition', 'length', 'stop'] as const;

export function worstReason(
  reasons: readonly TranslatedSentence['finishReason'][],
): TranslatedSentence['finishReason'] {
  return WORST_FIRST.find((reason) => reasons.includes(reason)) ?? 'stop';
}
