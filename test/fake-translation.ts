/**
 * A translating family without weights: an encoder and a decoder that watch their schedulers (fake-family.ts, fake-decoder.ts), and
 * between them the memory, which must hold a sentence's own source from the end of its encoding until it is translated.
 */
import assert from 'node:assert/strict';
import type { SentenceResult, TranslateJob } from '../src/engine/protocol.js';
import type { TranslateLimits, TranslationFamily } from '../src/engine/translate-stage.js';
import type { DecodeAdvancePlan, DecodeFinishPlan, Sentence } from '../src/scheduler/decode-scheduler.js';
import type { AdvancePlan, FinishPlan } from '../src/scheduler/scheduler.js';
import { FakeDecoder } from './fake-decoder.js';
import { FakeFamily } from './fake-family.js';
import { replay } from './halting-oracle.js';
import { translateAlone } from './translation-oracle.js';

export type TranslationPlan = AdvancePlan | FinishPlan | DecodeAdvancePlan | DecodeFinishPlan;
export type TranslationTurn = 'encode' | 'encodeFinish' | 'decode' | 'decodeFinish';

export class FakeTranslation implements TranslationFamily {
  readonly encoder: FakeFamily;
  readonly decoder: FakeDecoder;
  private readonly memory = new Map<number, { readonly source: Int32Array; readonly position: number }>();

  /** `onRun`: called before each plan is run, such as to move the clock. */
  constructor(
    private readonly limits: TranslateLimits,
    private readonly onRun: (turn: TranslationTurn, plan: TranslationPlan) => void = () => {},
  ) {
    this.encoder = new FakeFamily(limits.encoder, () => {}, false);
    this.decoder = new FakeDecoder(limits.decoder, (sentence) => this.sourceOf(sentence));
  }

  get encoderAttention() {
    return this.encoder;
  }
  get decoderAttention() {
    return this.decoder.attention;
  }

  async encode(plan: AdvancePlan) {
    this.onRun('encode', plan);
    const rows = plan.lanes.flatMap(({ lane }) => Array.from(lane.memoryRows));
    assert.equal(new Set(rows).size, rows.length, 'no memory row belongs to two lanes');
    return this.encoder.advance(plan);
  }

  async encodeFinish(plan: FinishPlan): Promise<void> {
    this.onRun('encodeFinish', plan);
    await this.encoder.finish(plan);
    for (const { length, memoryRows, request } of plan.lanes) {
      assert.equal(memoryRows.length, length, 'a memory row a position');
      memoryRows.forEach((row, position) => {
        assert.ok(row >= 0 && row < this.limits.memoryRowsMax, 'memory rows are rows of the pool');
        this.memory.set(row, { source: request.ids, position });
      });
    }
  }

  async decode(plan: DecodeAdvancePlan) {
    this.onRun('decode', plan);
    return this.decoder.advance(plan);
  }

  async decodeFinish(plan: DecodeFinishPlan) {
    this.onRun('decodeFinish', plan);
    return this.decoder.finish(plan);
  }

  private sourceOf({ request: { memoryRows } }: Sentence): Int32Array {
    const source = this.memory.get(memoryRows[0] as number)?.source;
    assert.ok(source !== undefined && source.length === memoryRows.length, 'a sentence is decoded once it is encoded');
    memoryRows.forEach((row, position) => {
      const held = this.memory.get(row);
      if (held?.source !== source || held.position !== position) assert.fail('the memory of another sentence');
    });
    return source;
  }
}

/** A sentence's result must be that of the oracles, whatever ran beside it. */
export function assertTranslated(job: TranslateJob, index: number, result: SentenceResult): void {
  const source = job.sentences[index] as Int32Array;
  const encoded = replay(source, job.encoderBudget);
  assert.deepEqual(result.encoderDepths, encoded.depths);
  assert.equal(result.encoderSteps, encoded.positionSteps);
  const { decoderBudget: budget, beam, lengthPenalty } = job;
  const maxNewTokens = job.maxNewTokens[index] as number;
  const alone = translateAlone(source, { budget, beam, lengthPenalty, maxNewTokens });
  assert.deepEqual([result.decoderSteps, result.decoderPositions], [alone.positionSteps, alone.positions]);
  assert.deepEqual(
    result.hypotheses.map(({ ids, logprobs, depths, ...rest }) => {
      return { ids: Array.from(ids), logprobs: Array.from(logprobs), depths: Array.from(depths), ...rest };
    }),
    alone.best,
  );
}
