/**
 * The loop that a user of onnxruntime-node would write over the package's step graph: a helper process of `bench --node-loop`.
 *
 * Sequences go in batches. In every step all positions of all of them are computed, until the deepest position of the batch has
 * halted; positions that have halted are put back as they were, which is what masks do in PyTorch. What a run returns is fed into the
 * next run, and nothing is bound beforehand. Depths and scores are those of the engine, so both compute the same thing.
 */
import { join } from 'node:path';
import type { InferenceSession, Tensor } from 'onnxruntime-node';
import { monotonicMs } from '../clock.js';
import type { Precision } from '../models/manifest.js';
import { AttentionPlan, GROUP_FIELDS, planAttention } from '../scheduler/attention-plan.js';
import { Lane } from '../scheduler/lane.js';
import { answerParent } from './bench-child.js';
import type { Measured } from './bench-engine.js';

export interface NodeLoopRequest {
  readonly packageFolder: string;
  readonly precision: Precision;
  /** Where the graphs run; tensors come and go through host memory either way, as `run` has them. */
  readonly provider: 'cpu' | 'cuda';
  readonly files: { readonly begin: string; readonly step: string; readonly finish: string };
  readonly threads: number;
  readonly sequences: readonly Int32Array[];
  readonly sequencesPerBatch: number;
  readonly width: number;
  readonly maxSteps: number;
  readonly threshold: number;
  readonly bosId: number;
}

type Ort = typeof import('onnxruntime-node');
type Feeds = Record<string, Tensor>;
type Sessions = Readonly<Record<'begin' | 'step' | 'finish', InferenceSession>>;

/** The tensors that outlive a step, by the name under which a graph takes them; it returns them as `<name>_out`. */
const POOLS = ['state', 'accumulator', 'halting', 'keys', 'values'] as const;
/** Those that must not change any more once their position has halted. */
const FROZEN = ['state', 'accumulator', 'halting'] as const;

class NodeLoop {
  constructor(
    private readonly ort: Ort,
    private readonly sessions: Sessions,
    private readonly request: NodeLoopRequest,
  ) {}

  /** Scores one batch from the ids to the log-probabilities. */
  async score(sequences: readonly Int32Array[]): Promise<{ positionSteps: number; logprob: number }> {
    const { request } = this;
    const lengths = sequences.map(({ length }) => length);
    const rows = lengths.reduce((sum, length) => sum + length, 0);
    const slots = this.int32(Int32Array.from({ length: rows }, (_, row) => row));
    let pools = await this.begin(sequences, slots, rows);

    const depths = new Uint8Array(rows);
    const step = new Int32Array(rows);
    const constant = {
      slots,
      cache_rows: slots,
      position: this.int32(Int32Array.from(lengths.flatMap((length) => [...Array(length).keys()]))),
      threshold: new this.ort.Tensor('float32', new Float32Array(rows).fill(request.threshold), [rows, 1]),
      is_held: this.bool(rows, false),
      ...this.attention(sequences),
    };
    for (let t = 1, left = rows; left > 0; t++) {
      // Under `freeze` a halted position renews its key and value once more, as of the step after its last.
      for (let row = 0; row < rows; row++) step[row] = depths[row] === 0 ? t : Math.min(t, (depths[row] as number) + 1);
      const isLast = this.bool(rows, t === request.maxSteps);
      const out = await this.sessions.step.run({ ...pools, ...constant, step: this.int32(step), is_last: isLast });
      const next = poolsOf(out);
      const halted = (out.halted as Tensor).data as Uint8Array;
      for (let row = 0; row < rows; row++) {
        if (depths[row] !== 0) {
          for (const name of FROZEN) putBack(pools[name] as Tensor, next[name] as Tensor, row);
        } else if (halted[row] !== 0) {
          depths[row] = t;
          left -= 1;
        }
      }
      pools = next;
    }
    const targets = this.int32(Int32Array.from(sequences.flatMap((ids) => [...ids])));
    const out = await this.sessions.finish.run({ accumulator: pools.accumulator as Tensor, slots, targets });
    const logprobs = (out.logprob as Tensor).data as Float32Array;
    return {
      positionSteps: depths.reduce((sum, depth) => sum + depth, 0),
      logprob: logprobs.reduce((sum, value) => sum + value, 0),
    };
  }

  private async begin(sequences: readonly Int32Array[], slots: Tensor, rows: number): Promise<Feeds> {
    const zeros = (columns: number) =>
      new this.ort.Tensor('float32', new Float32Array(rows * columns), [rows, columns]);
    const { width, bosId } = this.request;
    const ids = this.int32(Int32Array.from(sequences.flatMap((sequence) => [bosId, ...sequence.subarray(0, -1)])));
    const out = await this.sessions.begin.run({
      ids,
      slots,
      state: zeros(width),
      accumulator: zeros(width),
      halting: zeros(1),
    });
    return {
      state: out.state_out as Tensor,
      accumulator: out.accumulator_out as Tensor,
      halting: out.halting_out as Tensor,
      keys: zeros(width),
      values: zeros(width),
    };
  }

  /** The tables of a step in which every position asks; they are the same for all steps of a batch. */
  private attention(sequences: readonly Int32Array[]): Feeds {
    let first = 0;
    const lanes = sequences.map((ids, jobId) => {
      const { maxSteps, threshold } = this.request;
      const budget = { maxSteps, minSteps: 1, threshold };
      const lane = new Lane({ jobId, index: 0, ids, scoreFrom: 0, topCount: 0, budget });
      lane.slots = Int32Array.from(ids, () => first++);
      return lane;
    });
    const plan = new AttentionPlan(first);
    planAttention(lanes, this.request.width, plan);
    const { groupCount, queryCount, keyCount } = plan;
    const groups = plan.groups.slice(0, groupCount * GROUP_FIELDS);
    return {
      groups: new this.ort.Tensor('int64', groups, [groupCount, GROUP_FIELDS]),
      query_index: this.int32(plan.queryIndex.slice(0, queryCount)),
      visible: this.int32(plan.visible.slice(0, queryCount)),
      key_index: this.int32(plan.keyIndex.slice(0, keyCount)),
      row: this.int32(plan.row.slice(0, first)),
    };
  }

  private int32(values: Int32Array): Tensor {
    return new this.ort.Tensor('int32', values, [values.length]);
  }

  private bool(rows: number, value: boolean): Tensor {
    return new this.ort.Tensor('bool', new Uint8Array(rows).fill(value ? 1 : 0), [rows, 1]);
  }
}

function poolsOf(out: InferenceSession.ReturnType): Feeds {
  return Object.fromEntries(POOLS.map((name) => [name, out[`${name}_out`] as Tensor]));
}

function putBack(from: Tensor, to: Tensor, row: number): void {
  const columns = from.dims[1] as number;
  const values = (from.data as Float32Array).subarray(row * columns, (row + 1) * columns);
  (to.data as Float32Array).set(values, row * columns);
}

async function openSessions(ort: Ort, { packageFolder, provider, files, threads }: NodeLoopRequest): Promise<Sessions> {
  const open = (file: string) =>
    ort.InferenceSession.create(join(packageFolder, file), {
      executionProviders: [provider],
      graphOptimizationLevel: 'all',
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      logSeverityLevel: 3,
    });
  return { begin: await open(files.begin), step: await open(files.step), finish: await open(files.finish) };
}

async function main(): Promise<void> {
  const ort = await import('onnxruntime-node');
  const opened = new Map<Precision, Sessions>();
  answerParent(async (request: NodeLoopRequest): Promise<Measured> => {
    const sessions = opened.get(request.precision) ?? (await openSessions(ort, request));
    opened.set(request.precision, sessions);
    const loop = new NodeLoop(ort, sessions, request);
    const startedAtMs = monotonicMs();
    let positionSteps = 0;
    let logprob = 0;
    const { sequences, sequencesPerBatch } = request;
    for (let start = 0; start < sequences.length; start += sequencesPerBatch) {
      const batch = await loop.score(sequences.slice(start, start + sequencesPerBatch));
      positionSteps += batch.positionSteps;
      logprob += batch.logprob;
    }
    const seconds = (monotonicMs() - startedAtMs) / 1000;
    const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
    return { seconds, tokens, positionSteps, logprob };
  });
}

await main();
