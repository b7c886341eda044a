/** The jobs of a translating stage, and what a sentence is answered with: the same wherever the model runs. */
import { ServerError } from '../errors.js';
import type { Decoded, DecodeRequest, NewToken } from '../scheduler/decode-scheduler.js';
import type { LaneRequest } from '../scheduler/lane.js';
import type { Job, SentenceResult, TranslateJob, TranslationHypothesis } from './protocol.js';
import type { StageMessage } from './stage.js';

/** What the encoder found out about a sentence, and when its first token was there. */
interface Encoded {
  readonly depths: Uint8Array;
  readonly steps: number;
  firstTokenAtMs: number | null;
}

/** Of all hypotheses of a sentence. */
export interface DecodedWork {
  readonly positionSteps: number;
  readonly positions: number;
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

  /** A token of this sentence is known. */
  decided(request: DecodeRequest, nowMs: number): void {
    (this.encoded.get(request) as Encoded).firstTokenAtMs ??= nowMs;
  }

  streams({ jobId }: DecodeRequest): boolean {
    return this.jobs.get(jobId)?.job.streamTokens === true;
  }

  /** For the jobs that are streamed. */
  tokenMessages(tokens: readonly NewToken[]): StageMessage[] {
    return tokens.filter(({ request }) => this.streams(request)).map((token) => this.tokenMessage(token));
  }

  tokenMessage({ request: { jobId, index }, id, logprob, depth }: NewToken): StageMessage {
    const message = { type: 'token', jobId, index, id, logprob, depth } as const;
    return { jobId, message, transfer: [], completesPart: false };
  }

  /** @param hypotheses best first; their arrays move to the main thread */
  answer(request: DecodeRequest, work: DecodedWork, hypotheses: readonly TranslationHypothesis[]): StageMessage {
    const { jobId, index } = request;
    const encoded = this.encoded.get(request) as Encoded;
    const result: SentenceResult = {
      hypotheses,
      encoderDepths: encoded.depths,
      encoderSteps: encoded.steps,
      decoderSteps: work.positionSteps,
      decoderPositions: work.positions,
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

export function toHypothesis({ ids, logprobs, depths, score, finishReason }: Decoded): TranslationHypothesis {
  return {
    ids: Int32Array.from(ids),
    logprobs: Float32Array.from(logprobs),
    depths: Uint8Array.from(depths),
    score,
    finishReason,
  };
}
