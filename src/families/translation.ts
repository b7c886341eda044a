/**
 * Translation with a Universal Transformer: an encoder whose lanes are source sentences, and a decoder whose rows are the newest
 * positions of hypotheses. Between them lies the memory: keys and values of the encoded sentence, computed once.
 */
import type { ModelDescription } from '../models/description.js';
import { type Backend, type Graph, notANumber, type Tensor } from '../runtime/backend.js';
import { AttentionPlan, layOut, paddedKeys, planFullAttention, type Unit } from '../scheduler/attention-plan.js';
import { candidatesPerHypothesis } from '../scheduler/beam.js';
import type { BestTokens, DecodeAdvancePlan, DecodeFinishPlan, Hypothesis } from '../scheduler/decode-scheduler.js';
import type { AdvancePlan, AdvanceResult, FinishPlan } from '../scheduler/scheduler.js';
import { FINISH_CHUNK_ROWS, openGraphs, pool, Stack, type StackSizes } from './stack.js';
import { StepInputs } from './step-inputs.js';
import { laneRows } from './universal-transformer.js';

const GRAPHS = ['begin', 'encoder_step', 'encoder_finish', 'decoder_step', 'decoder_finish'] as const;
type Graphs = Readonly<Record<(typeof GRAPHS)[number], Graph>>;

export interface TranslationSizes {
  /** Source positions in work. */
  readonly encoderSlots: number;
  /** Source positions whose memory is held. */
  readonly memoryRows: number;
  readonly decoder: StackSizes;
}

export class Translation {
  readonly encoderAttention: AttentionPlan;
  readonly decoderAttention: AttentionPlan;
  private readonly memoryAttention: AttentionPlan;
  private readonly inputs: StepInputs;
  private readonly encoder: Stack;
  private readonly decoder: Stack;
  private readonly memoryKeys: Tensor;
  private readonly memoryValues: Tensor;

  private constructor(
    backend: Backend,
    private readonly graphs: Graphs,
    sizes: TranslationSizes,
  ) {
    this.inputs = new StepInputs(backend);
    const encoder = { slots: sizes.encoderSlots, cacheRows: sizes.encoderSlots };
    this.encoder = new Stack(backend, graphs.begin, graphs.encoder_step, encoder);
    this.decoder = new Stack(backend, graphs.begin, graphs.decoder_step, sizes.decoder);
    this.memoryKeys = pool(backend, sizes.memoryRows, this.encoder.width);
    this.memoryValues = pool(backend, sizes.memoryRows, this.encoder.width);
    this.encoderAttention = new AttentionPlan(64);
    this.decoderAttention = new AttentionPlan(64);
    this.memoryAttention = new AttentionPlan(64);
  }

  /** Throws RuntimeFailure when a graph can't be opened or is not the one described. */
  static async open(backend: Backend, model: ModelDescription, sizes: TranslationSizes): Promise<Translation> {
    return new Translation(backend, await openGraphs(backend, model, GRAPHS), sizes);
  }

  async encode(plan: AdvancePlan): Promise<AdvanceResult> {
    if (plan.begin.length > 0) {
      const count = plan.begin.reduce((sum, lane) => sum + lane.length, 0);
      await this.encoder.start(count, (ids, slots) => {
        let row = 0;
        for (const lane of plan.begin) {
          ids.set(lane.request.ids, row);
          slots.set(lane.slots, row);
          row += lane.length;
        }
      });
    }
    const lanes = plan.lanes.map(({ lane }) => lane);
    planFullAttention(lanes, this.encoder.width, this.encoderAttention);
    return this.encoder.advance(laneRows(this.encoder, plan), this.encoderAttention, null);
  }

  /** Writes the memory of finished lanes into their memory rows. */
  async encodeFinish(plan: FinishPlan): Promise<void> {
    const count = plan.lanes.reduce((sum, lane) => sum + lane.length, 0);
    const slots = this.inputs.int32('slots', [count]);
    const rows = this.inputs.int32('memory_rows', [count]);
    let row = 0;
    for (const lane of plan.lanes) {
      slots.data.set(lane.slots, row);
      rows.data.set(lane.memoryRows, row);
      row += lane.length;
    }
    const run = this.graphs.encoder_finish.run(
      {
        accumulator: this.encoder.accumulator,
        slots: slots.tensor,
        memory_rows: rows.tensor,
        memory_keys: this.memoryKeys,
        memory_values: this.memoryValues,
      },
      { memory_keys_out: this.memoryKeys, memory_values_out: this.memoryValues },
    );
    if (run !== undefined) await run;
  }

  async decode(plan: DecodeAdvancePlan): Promise<AdvanceResult> {
    const { decoder } = this;
    if (plan.begin.length > 0) {
      await decoder.start(plan.begin.length, (ids, slots) => {
        plan.begin.forEach(({ inputId, slot }, row) => {
          ids[row] = inputId;
          slots[row] = slot;
        });
      });
    }
    const rows = decoder.rows(plan.active.length, plan.renewed.length);
    for (const { node, slot, steps, sentence } of plan.active) {
      rows.rule(1, steps + 1, sentence.request.budget);
      rows.add(slot, node.rows[steps] as number, node.position, steps + 1);
    }
    for (const { node, slot, step } of plan.renewed) rows.add(slot, node.rows[step - 1] as number, node.position, step);
    layOut(selfUnits(plan.active), plan.active.length, decoder.width, this.decoderAttention);
    layOut(memoryUnits(plan.active), plan.active.length, decoder.width, this.memoryAttention);
    return decoder.advance(rows, this.decoderAttention, {
      keys: this.memoryKeys,
      values: this.memoryValues,
      attention: this.memoryAttention,
    });
  }

  /** The best next tokens of every hypothesis, one result a sentence. */
  async decodeFinish(plan: DecodeFinishPlan): Promise<BestTokens[]> {
    const rows = plan.sentences.flatMap(({ hypotheses }) => hypotheses);
    const k = Math.max(...plan.sentences.map(({ request }) => candidatesPerHypothesis(request.beam)));
    const ids = new Int32Array(rows.length * k);
    const logprobs = new Float32Array(rows.length * k);
    for (let start = 0; start < rows.length; start += FINISH_CHUNK_ROWS) {
      await this.bestTokens(
        rows.slice(start, start + FINISH_CHUNK_ROWS),
        k,
        ids.subarray(start * k),
        logprobs.subarray(start * k),
      );
    }
    let row = 0;
    return plan.sentences.map(({ request, hypotheses }) => {
      const own = candidatesPerHypothesis(request.beam);
      const best = {
        ids: new Int32Array(hypotheses.length * own),
        logprobs: new Float32Array(hypotheses.length * own),
        k: own,
      };
      for (let i = 0; i < hypotheses.length; i++, row++) {
        best.ids.set(ids.subarray(row * k, row * k + own), i * own);
        best.logprobs.set(logprobs.subarray(row * k, row * k + own), i * own);
      }
      return best;
    });
  }

  private async bestTokens(
    rows: readonly Hypothesis[],
    k: number,
    ids: Int32Array,
    logprobs: Float32Array,
  ): Promise<void> {
    const { inputs } = this;
    const slots = inputs.int32('finish_slots', [rows.length]);
    rows.forEach(({ slot }, i) => {
      slots.data[i] = slot;
    });
    const count = inputs.take('k', 'int64', [1]);
    (count.data as BigInt64Array)[0] = BigInt(k);
    const best = inputs.float32('top_logprobs', [rows.length, k]);
    const bestIds = inputs.int32('top_ids', [rows.length, k]);
    const run = this.graphs.decoder_finish.run(
      { accumulator: this.decoder.accumulator, slots: slots.tensor, k: count },
      { top_logprobs: best.tensor, top_ids: bestIds.tensor },
    );
    if (run !== undefined) await run;
    const values = best.data.subarray(0, rows.length * k);
    if (values.some(Number.isNaN)) throw notANumber('decode');
    ids.set(bestIds.data.subarray(0, rows.length * k));
    logprobs.set(values);
  }

  release(): void {
    this.inputs.release();
    this.encoder.release();
    this.decoder.release();
    this.memoryKeys.release();
    this.memoryValues.release();
    for (const graph of Object.values(this.graphs)) graph.release();
  }
}

/** A query a hypothesis, over its prefix as the depth-shared cache holds it at the hypothesis' own step. */
function selfUnits(active: readonly Hypothesis[]): Unit[] {
  return active.map(({ node, steps }, firstRow) => {
    const count = node.position + 1;
    const keyRows = new Int32Array(count);
    node.keyRows(steps + 1, keyRows);
    return { firstRow, visible: [count], keyRows, queries: 1, keys: paddedKeys(count) };
  });
}

/** The hypotheses of a sentence that run share their memory: one unit gathers it once. */
function memoryUnits(active: readonly Hypothesis[]): Unit[] {
  const units: Unit[] = [];
  let firstRow = 0;
  while (firstRow < active.length) {
    const { sentence } = active[firstRow] as Hypothesis;
    const { memoryRows } = sentence.request;
    let end = firstRow + 1;
    while (end < active.length && active[end]?.sentence === sentence) end += 1;
    const visible = new Int32Array(end - firstRow).fill(memoryRows.length);
    const size = { queries: visible.length, keys: paddedKeys(memoryRows.length) };
    units.push({ firstRow, visible, keyRows: memoryRows, ...size });
    firstRow = end;
  }
  return units;
}
