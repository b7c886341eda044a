/** An engine that says what a test tells it to: a sentence of bytes goes in, hypotheses of bytes come out. */
import { monotonicMs } from '../../src/clock.js';
import type { TranslateListener, TranslateOutcome, TranslateRequest } from '../../src/engine/engine.js';
import type { SentenceResult } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import type { TranslateSettings } from '../../src/translate/types.js';
import { describeTranslator, FakeEngine } from '../fakes.js';

/** The hypotheses of a sentence, best first; fewer than the beam asks for is fine. */
export type Say = (sentence: string, beam: number) => readonly string[];

/** Byte 2 would be a letter of the text: the end of sentence is a byte that UTF-8 never has. */
export const MODEL = describeTranslator({ eosId: 255, contextTokens: 400 });

export const SETTINGS: TranslateSettings = {
  encoderBudget: { maxSteps: 6, minSteps: 1, threshold: 0.99 },
  decoderBudget: { maxSteps: 6, minSteps: 1, threshold: 0.99 },
  beam: 1,
  alternatives: 0,
  lengthPenalty: 1,
  maxNewTokens: null,
  format: 'text',
};

export class SpeakingEngine extends FakeEngine {
  /** Every sentence that was asked for. */
  readonly heard: string[] = [];
  lanes = 0;
  lanesMost = 0;
  /** Called before a request is answered; what it throws is the answer. */
  before: (request: TranslateRequest, signal: AbortSignal) => void | Promise<void> = () => {};
  /** In which order a request's sentences are answered. */
  order: (count: number) => readonly number[] = (count) => Array.from({ length: count }, (_, i) => i);

  constructor(private readonly say: Say = (sentence) => [sentence.toUpperCase()]) {
    super([MODEL]);
  }

  override async translate(
    request: TranslateRequest,
    signal: AbortSignal,
    listener?: TranslateListener,
  ): Promise<TranslateOutcome> {
    this.translations.push(request);
    this.lanes += request.sentences.length;
    this.lanesMost = Math.max(this.lanesMost, this.lanes);
    try {
      await this.before(request, signal);
      if (signal.aborted) throw new ServerError('CLIENT_CLOSED', 'the client closed the connection');
      const sentences: SentenceResult[] = new Array(request.sentences.length);
      for (const index of this.order(request.sentences.length)) {
        const result = this.answer(
          request.sentences[index] as Int32Array,
          request,
          request.maxNewTokens[index] as number,
        );
        sentences[index] = result;
        const best = result.hypotheses[0];
        if (request.streamTokens) {
          best?.ids.forEach((id, i) => {
            listener?.token(index, id, best.logprobs[i] as number, best.depths[i] as number);
          });
        }
        listener?.sentence(index, result);
      }
      return { sentences, queueMs: 2, computeMs: 3, firstTokenMs: 1 };
    } finally {
      this.lanes -= request.sentences.length;
    }
  }

  private answer(ids: Int32Array, { beam }: TranslateRequest, maxNewTokens: number): SentenceResult {
    const source = Buffer.from(ids.subarray(0, -1)).toString();
    this.heard.push(source);
    const hypotheses = this.say(source, beam)
      .slice(0, beam)
      .map((text, k) => {
        const said = Int32Array.from(Buffer.from(text)).slice(0, maxNewTokens);
        return {
          ids: said,
          logprobs: new Float32Array(said.length + 1).fill(-0.5 - k),
          depths: new Uint8Array(said.length + 1).fill(2),
          score: -0.5 - k,
          finishReason: said.length < maxNewTokens ? ('stop' as const) : ('length' as const),
        };
      });
    return {
      hypotheses,
      encoderDepths: new Uint8Array(ids.length).fill(3),
      encoderSteps: 3 * ids.length,
      decoderSteps: 2 * (hypotheses[0]?.depths.length ?? 0),
      decoderPositions: hypotheses[0]?.depths.length ?? 0,
      firstTokenAtMs: monotonicMs(),
    };
  }
}
