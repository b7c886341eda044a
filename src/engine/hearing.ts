/**
 * What whoever listens has heard of each sequence of a generation, and where it said to stop. The engine learns of that a step or two
 * later and has gone on meanwhile: the result is cut to what was heard, so that it does not depend on how fast the news travelled.
 */
import type { GeneratedTokens, SequenceResult } from './protocol.js';

export class Hearing {
  private readonly heard: number[];
  private readonly stopped: boolean[];

  constructor(count: number) {
    this.heard = new Array(count).fill(0);
    this.stopped = new Array(count).fill(false);
  }

  /** Counts a token; false: the sequence was stopped before it. */
  hear(index: number): boolean {
    if (this.stopped[index] === true) return false;
    this.heard[index] = (this.heard[index] as number) + 1;
    return true;
  }

  /** The token heard last is the last of the sequence. */
  stop(index: number): void {
    this.stopped[index] = true;
  }

  cut(index: number, result: SequenceResult): SequenceResult {
    if (this.stopped[index] !== true) return result;
    return { ...result, tokens: firstTokens(result.tokens, this.heard[index] as number), finishReason: 'stop' };
  }
}

function firstTokens(tokens: GeneratedTokens, count: number): GeneratedTokens {
  const { ids, logprobs, topIds, topLogprobs, depths, remainders, spans } = tokens;
  const top = ids.length === 0 ? 0 : topIds.length / ids.length;
  return {
    ids: ids.slice(0, count),
    logprobs: logprobs.slice(0, count),
    topIds: topIds.slice(0, count * top),
    topLogprobs: topLogprobs.slice(0, count * top),
    depths: depths.slice(0, count),
    remainders: remainders.slice(0, count),
    spans: spans.slice(0, count),
  };
}
