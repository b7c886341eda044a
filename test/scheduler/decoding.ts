/** Runs sentences through the real decode scheduler and the fake decoder, without encoder or loop. */
import assert from 'node:assert/strict';
import {
  type Decoded,
  type DecodeLimits,
  DecodeScheduler,
  type NewToken,
  type Sentence,
} from '../../src/scheduler/decode-scheduler.js';
import type { PrefixNode } from '../../src/scheduler/prefix-cache.js';
import { FakeDecoder } from '../fake-decoder.js';
import { BOS, EOS, type SentenceSettings } from '../translation-oracle.js';

export const MAX_STEPS = 6;
export const MODEL_BUDGET = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 } as const;

export interface TestSentence extends SentenceSettings {
  /** What it translates; the whole of its source. */
  readonly source: number;
}

export function sourceIds(source: number): Int32Array {
  return Int32Array.of(source, 7);
}

export interface DoneSentence {
  readonly best: readonly Decoded[];
  readonly sentence: Sentence;
}

/** A scheduler with its fake decoder; job n is the n-th sentence submitted, and its memory is row n. */
export class Decoding {
  readonly scheduler: DecodeScheduler;
  readonly decoder: FakeDecoder;
  readonly done = new Map<number, DoneSentence>();
  readonly tokens: NewToken[] = [];
  /** Jobs in the order of their first step. */
  readonly admitted: number[] = [];
  private readonly sources: Int32Array[] = [];
  private readonly sentences = new Set<Sentence>();

  constructor(readonly limits: DecodeLimits) {
    this.scheduler = new DecodeScheduler(limits, MAX_STEPS, BOS, EOS);
    this.decoder = new FakeDecoder(
      limits,
      ({ request }) => this.sources[request.memoryRows[0] as number] as Int32Array,
    );
  }

  submit({ source, budget, beam, lengthPenalty, maxNewTokens }: TestSentence): number {
    const jobId = this.sources.push(sourceIds(source)) - 1;
    const memoryRows = Int32Array.of(jobId);
    this.scheduler.submit({ jobId, index: 0, memoryRows, budget, beam, lengthPenalty, maxNewTokens });
    return jobId;
  }

  /** One plan; its kind, or null when there is nothing to do. */
  turn(): 'advance' | 'finish' | null {
    const { scheduler, decoder } = this;
    const plan = scheduler.schedule();
    if (plan === null) return null;
    if (plan.kind === 'advance') {
      for (const { ids, sentence } of plan.begin) {
        this.sentences.add(sentence);
        if (ids.length === 0) this.admitted.push(sentence.request.jobId);
      }
      scheduler.applyAdvance(plan, decoder.advance(plan));
    } else {
      const { done, tokens } = scheduler.applyFinish(plan, decoder.finish(plan));
      this.tokens.push(...tokens);
      for (const { sentence, best } of done) {
        const { jobId } = sentence.request;
        assert.ok(!this.done.has(jobId), 'a sentence is done once');
        this.done.set(jobId, { sentence, best });
      }
    }
    this.checkCache();
    return plan.kind;
  }

  /** What is in use are the rows of the live hypotheses' prefixes, shared ones once; what is promised is what they may still need. */
  private checkCache(): void {
    const nodes = new Set<PrefixNode>();
    let promised = 0;
    for (const { hypotheses, promisedRows } of this.sentences) {
      promised += promisedRows;
      for (const { node: newest } of hypotheses) {
        for (let node: PrefixNode | null = newest; node !== null && !nodes.has(node); node = node.parent)
          nodes.add(node);
      }
    }
    const { used, unpromised, capacity } = this.scheduler.cache;
    const rows = [...nodes].flatMap((node) => node.rows);
    assert.equal(used, rows.length, 'rows in use');
    assert.equal(new Set(rows).size, rows.length, 'no row belongs to two positions');
    assert.equal(unpromised, capacity - used - promised, 'rows promised');
    assert.ok(unpromised >= 0);
  }

  finishAll(): void {
    for (let turn = 0; this.turn() !== null; turn++) assert.ok(turn < 20_000, 'it comes to an end');
  }

  /** Nothing is held: all cache rows and promises are back, and all slots, since as many as there are can be used at once. */
  assertEmpty(): void {
    const { scheduler, decoder, limits } = this;
    assert.ok(scheduler.idle);
    assert.deepEqual([scheduler.lanesWaiting, scheduler.lanesRunning], [0, 0]);
    assert.deepEqual([scheduler.cache.used, scheduler.cache.unpromised], [0, limits.cacheRowsMax]);
    const brief = {
      budget: { maxSteps: 2, minSteps: 1, threshold: 0.001 },
      beam: 1,
      lengthPenalty: 0,
      maxNewTokens: 2,
    };
    const together = Math.min(limits.rowsMax, Math.floor(limits.cacheRowsMax / scheduler.rowsNeeded(brief)));
    decoder.slotsMost = 0;
    // All their positions are renewed together while the next ones begin.
    for (let i = 0; i < together; i++) this.submit({ source: 1, ...brief });
    this.finishAll();
    assert.equal(decoder.slotsMost, 2 * together);
    assert.deepEqual([scheduler.cache.used, scheduler.cache.unpromised], [0, limits.cacheRowsMax]);
  }
}
