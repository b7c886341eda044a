/** What a language model's accumulators say of tokens: log-probabilities of targets and of the best candidates, in chunks of rows. */
import { type Backend, type Graph, notANumber, type Tensor } from '../runtime/backend.js';
import { FINISH_CHUNK_ROWS } from './stack.js';
import { StepInputs } from './step-inputs.js';

export interface OutputRow {
  /** Pool row of the position that predicts. */
  readonly slot: number;
  /** The token whose log-probability is wanted; any where none is. */
  readonly target: number;
  /** Candidates wanted. */
  readonly topCount: number;
}

/** Hears of a row's result; the arrays are valid during the call. */
export type OutputListener<Row> = (row: Row, logprob: number, topIds: Int32Array, topLogprobs: Float32Array) => void;

export class OutputLayer {
  private readonly inputs: StepInputs;

  constructor(
    backend: Backend,
    private readonly graphs: { readonly finish: Graph; readonly finish_top: Graph },
    private readonly accumulator: Tensor,
  ) {
    this.inputs = new StepInputs(backend);
  }

  /** Calls back once a row, in order. */
  async run<Row extends OutputRow>(rows: readonly Row[], listener: OutputListener<Row>): Promise<void> {
    for (let start = 0; start < rows.length; start += FINISH_CHUNK_ROWS) {
      await this.chunk(rows.slice(start, start + FINISH_CHUNK_ROWS), listener);
    }
  }

  private async chunk<Row extends OutputRow>(rows: readonly Row[], listener: OutputListener<Row>): Promise<void> {
    const { inputs, graphs } = this;
    const slots = inputs.int32('slots', [rows.length]);
    const targets = inputs.int32('targets', [rows.length]);
    let k = 0;
    rows.forEach(({ slot, target, topCount }, i) => {
      slots.data[i] = slot;
      targets.data[i] = target;
      k = Math.max(k, topCount);
    });
    const logprob = inputs.float32('logprob', [rows.length]);
    const best = inputs.float32('top_logprobs', [rows.length, Math.max(1, k)]);
    const ids = inputs.int32('top_ids', [rows.length, Math.max(1, k)]);
    const bound = { accumulator: this.accumulator, slots: slots.tensor, targets: targets.tensor };
    if (k === 0) {
      const run = graphs.finish.run(bound, { logprob: logprob.tensor });
      if (run !== undefined) await run;
    } else {
      const count = inputs.take('k', 'int64', [1]);
      (count.data as BigInt64Array)[0] = BigInt(k);
      const outputs = { logprob: logprob.tensor, top_logprobs: best.tensor, top_ids: ids.tensor };
      const run = graphs.finish_top.run({ ...bound, k: count }, outputs);
      if (run !== undefined) await run;
    }
    rows.forEach((row, i) => {
      const value = logprob.data[i] as number;
      if (Number.isNaN(value)) throw notANumber('finish');
      const end = i * k + row.topCount;
      listener(row, value, ids.data.subarray(i * k, end), best.data.subarray(i * k, end));
    });
  }

  release(): void {
    this.inputs.release();
  }
}
