/** The jobs of a translating stage, and what a sentence is answered with: the same wherever the model runs. */
import { ServerError } from '../errors.js';
import type { Decoded, DecodeRequest, NewToken, Sentence } from '../scheduler/decode-scheduler.js';
import type { LaneRequest } from '../scheduler/lane.js';
import type { Job, SentenceResult, TranslateJob, TranslationHypothesis } from './protocol.js';
import type { StageMessage } from './stage.js';

/** What the encoder found out about a sentence, and when its first token was there. */
interface Encoded {
  readonly depths: Uint8Array;
  readonly steps: number;
  firstTokenAtMs: number | null;
}

export interface EncodedSentence {
  readonly request: LaneRequest;
  readonly memoryRows: Int32Array;
  readonly depths: Uint8Array;
  readonly positionSteps: number;
}

export class TranslateJobs {
  private readonly jobs = new Map<number, { job: TranslateJob; decoding: DecodeRequest[] }>();
  private readonly encoded = new Map<DecodeRequest, Encoded>();

  /** @param contextTokens source positions, and target positions, of one sentence at most */
  constructor(private readonly contextTokens: number) {}

  /** Takes a job: a lane of the encoder for each of its sentences. Throws ServerError when one of them is too long. */
  take(job: Job): LaneRequest[] {
    if (job.kind !== 'translate') throw new Error(`a translating stage got a job to ${job.kind}`);
    // Position tables end there: a longer sentence would not be wrong but out of bounds, and take the worker with it.
    const longest = Math.max(...job.sentences.map(({ length }) => length));
    if (longest > this.contextTokens) {
      throw new ServerError(
        'INVALID_REQUEST',
        `a sentence of ${longest} tokens exceeds the model's ${this.contextTokens}: split it`,
      );
    }
    this.jobs.set(job.id, { job, decoding: [] });
    return job.sentences.map((ids, index) => {
      return { jobId: job.id, index, ids, scoreFrom: 0, topCount: 0, budget: job.encoderBudget };
    });
  }

  settle(jobId: number): void {
    for (const request of this.jobs.get(jobId)?.decoding ?? []) this.encoded.delete(request);
    this.jobs.delete(jobId);
  }

  /** An encoded sentence as the decoder takes it; null: its job has left. */
  toDecode({ request, memoryRows, depths, positionSteps }: EncodedSentence): DecodeRequest | null {
    const { jobId, index } = request;
    const held = this.jobs.get(jobId);
    if (held === undefined) return null;
    const { job } = held;
    const { decoderBudget: budget, beam, lengthPenalty } = job;
    const maxNewTokens = job.maxNewTokens[index] as number;
    const decoding = { jobId, index, memoryRows, budget, beam, lengthPenalty, maxNewTokens };
    held.decoding.push(decoding);
    this.encoded.set(decoding, { depths, steps: positionSteps, firstTokenAtMs: null });
    return decoding;
  }

  /** The next token of these sentences is known: call before they have it. */
  decided(sentences: readonly Sentence[], nowMs: number): void {
    for (const { request, hypotheses } of sentences) {
      if (hypotheses[0]?.node.position === 0) (this.encoded.get(request) as Encoded).firstTokenAtMs = nowMs;
    }
  }

  /** For the jobs that are streamed. */
  tokenMessages(tokens: readonly NewToken[]): StageMessage[] {
    const messages: StageMessage[] = [];
    for (const { sentence, id, logprob, depth } of tokens) {
      const { jobId, index } = sentence.request;
      if (this.jobs.get(jobId)?.job.streamTokens !== true) continue;
      const message = { type: 'token', jobId, index, id, logprob, depth } as const;
      messages.push({ jobId, message, transfer: [], completesPart: false });
    }
    return messages;
  }

  answer(sentence: Sentence, best: readonly Decoded[]): StageMessage {
    const { jobId, index } = sentence.request;
    const encoded = this.encoded.get(sentence.request) as Encoded;
    const hypotheses = best.map(toHypothesis);
    const result: SentenceResult = {
      hypotheses,
      encoderDepths: encoded.depths,
      encoderSteps: encoded.steps,
      decoderSteps: sentence.positionSteps,
      decoderPositions: sentence.positions,
      firstTokenAtMs: encoded.firstTokenAtMs as number,
    };
    const arrays = hypotheses.flatMap(({ ids, logprobs, depths }) => [ids, logprobs, depths]);
    return {
      jobId,
      message: { type: 'sentence', jobId, index, result },
      transfer: [encoded.depths, ...arrays].map(({ buffer }) => buffer as ArrayBuffer),
      completesPart: true,
    };
  }
}

function toHypothesis({ ids, logprobs, depths, score, finishReason }: Decoded): TranslationHypothesis {
  return {
    ids: Int32Array.from(ids),
    logprobs: Float32Array.from(logprobs),
    depths: Uint8Array.from(depths),
    score,
    finishReason,
  };
}
