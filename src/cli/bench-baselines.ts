/** The loops that the engine is compared with, each in a process of its own. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ModelDescription } from '../models/description.js';
import type { Manifest, Precision } from '../models/manifest.js';
import { Helper } from './bench-child.js';
import type { Measured } from './bench-engine.js';
import type { NodeLoopRequest } from './bench-node-loop.js';
import type { Baseline } from './bench-rounds.js';
import { CommandError } from './command.js';

/** Sequences of a batch of the compared loops: all of them wait for the deepest. */
export const BASELINE_BATCH = 16;

export interface BaselineWork {
  readonly model: ModelDescription;
  readonly manifest: Manifest;
  readonly sequences: readonly Int32Array[];
  readonly threads: number;
}

/** Those whose graphs run on a CPU with ONNX Runtime alone. */
const CPU_PRECISIONS = ['int8', 'float32'] as const satisfies readonly Precision[];

/** A loop over onnxruntime-node for each precision of the package; one process does both, one at a time. */
export function nodeLoopBaselines({ model, manifest, sequences, threads }: BaselineWork): {
  baselines: Baseline[];
  end: () => Promise<void>;
} {
  const script = new URL('./bench-node-loop.js', import.meta.url);
  const helper = new Helper<NodeLoopRequest, Measured>(script, 'the loop over onnxruntime-node');
  const baselines = CPU_PRECISIONS.flatMap((precision): Baseline[] => {
    const graphs = manifest.precisions[precision];
    const { begin, step, finish } = graphs ?? {};
    if (begin === undefined || step === undefined || finish === undefined) return [];
    const request: NodeLoopRequest = {
      packageFolder: model.folder,
      precision,
      provider: 'cpu',
      files: { begin: begin.file, step: step.file, finish: finish.file },
      threads,
      sequences,
      sequencesPerBatch: BASELINE_BATCH,
      width: manifest.dimensions.d_model,
      maxSteps: model.maxSteps,
      threshold: model.threshold,
      bosId: model.bosId,
    };
    return [{ name: `onnxruntime-node loop, ${precision}`, measure: () => helper.ask(request) }];
  });
  return { baselines, end: () => helper.end() };
}

/** What export/compare_loop.py prints: one JSON object, on the last line. */
interface LoopReply {
  readonly seconds: number;
  readonly tokens: number;
  readonly position_steps: number;
  readonly logprob: number;
}

const PYTORCH_REPLY_BYTES_MAX = 1 << 20;

/** The loop in PyTorch with masks. It starts anew in every round; only the scoring is timed, by the loop itself. */
export async function pytorchBaseline(
  python: string,
  { model, sequences, threads }: BaselineWork,
  stop: AbortSignal,
): Promise<{ baseline: Baseline; end: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'ponder-bench-'));
  const ids = join(folder, 'sequences.json');
  await writeFile(ids, JSON.stringify(sequences.map((sequence) => [...sequence])));
  const script = fileURLToPath(new URL('../../../export/compare_loop.py', import.meta.url));
  const args = [script, '--package', model.folder, '--sequences', ids];
  args.push('--batch', String(BASELINE_BATCH), '--threads', String(threads));
  const measure = async (): Promise<Measured> => {
    const reply = JSON.parse((await stdoutOf(python, args, stop)).trim().split('\n').at(-1) ?? '') as LoopReply;
    const { seconds, tokens, position_steps: positionSteps, logprob } = reply;
    return { seconds, tokens, positionSteps, logprob };
  };
  return {
    baseline: { name: 'PyTorch loop with masks, float32', measure },
    end: () => rm(folder, { recursive: true, force: true }),
  };
}

function stdoutOf(command: string, args: string[], signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { signal, maxBuffer: PYTORCH_REPLY_BYTES_MAX }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const reason = stderr.trim().split('\n').at(-1) || error.message;
      reject(new CommandError(`the loop in PyTorch failed (${reason}): is --pytorch an interpreter with torch?`));
    });
  });
}
