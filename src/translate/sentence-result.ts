/** A translated sentence as HTTP and the command line see it. */
import type { SentenceResult, TranslationHypothesis } from '../engine/protocol.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { SourceSentence } from './document.js';
import { type LaneRecord, mergedResult, type Translation, worstReason } from './translation.js';
import type { TranslateCost, TranslatedSentence, TranslatedToken } from './types.js';

/** Tokens are made when they are asked for: a book has millions, and most callers want none. */
export class SentenceOfLanes implements TranslatedSentence {
  readonly offset: number;
  readonly source: string;
  readonly text: string;
  readonly finishReason: TranslatedSentence['finishReason'];
  readonly result: SentenceResult;
  readonly cost: TranslateCost;
  readonly #lanes: readonly LaneRecord[];

  constructor(
    { offset, source }: SourceSentence,
    { candidates, lanes, cost }: Translation,
    private readonly tokenizer: Pick<Tokenizer, 'tokenText'>,
  ) {
    const [best] = candidates;
    if (best === undefined) throw new Error('a sentence has no translation');
    this.offset = offset;
    this.source = source;
    this.text = best.text;
    this.finishReason = worstReason(lanes.map(({ result }) => bestOf(result).finishReason));
    this.result = mergedResult(lanes, best.score);
    this.cost = cost;
    this.#lanes = lanes;
  }

  get sourceTokens(): TranslatedSentence['sourceTokens'] {
    return this.#lanes.flatMap(({ sourceIds, result }) =>
      Array.from(sourceIds, (id, i) => {
        return { id, text: this.tokenizer.tokenText(id), depth: result.encoderDepths[i] as number };
      }),
    );
  }

  get tokens(): readonly TranslatedToken[] {
    return this.#lanes.flatMap(({ result }) => {
      const { ids, logprobs, depths } = bestOf(result);
      return Array.from(ids, (id, i) => {
        const text = this.tokenizer.tokenText(id);
        return { id, text, logprob: logprobs[i] as number, depth: depths[i] as number };
      });
    });
  }
}

function bestOf({ hypotheses }: SentenceResult): TranslationHypothesis {
  const [best] = hypotheses;
  if (best === undefined) throw new Error('the engine answered a sentence without a hypothesis');
  return best;
}
