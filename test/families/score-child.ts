/**
 * Scores the golden texts in a process of its own and prints the results as JSON: ONNX Runtime has one environment a process, so two
 * backends, or two counts of threads, need two processes. Arguments: backend, precision, threads.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import type { Precision } from '../../src/models/manifest.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { openOrtNode } from '../../src/runtime/ort-node.js';
import { goldenTexts, shippedModel } from '../shipped-package.js';
import { MODEL_BUDGET, scoreWindows } from './scoring.js';

export interface ChildSettings {
  readonly backend: 'ort-capi' | 'ort-node';
  readonly precision: Precision;
  readonly threads: number;
}

export interface ChildReport {
  readonly results: readonly {
    readonly depths: number[];
    readonly remainders: number[];
    readonly logprobs: number[];
  }[];
  readonly liveHandles: number;
}

/** All golden texts in one batch, refilled as it empties. */
export function scoreInChild({ backend, precision, threads }: ChildSettings): Promise<ChildReport> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), [backend, precision, String(threads)], { execArgv: [] });
    let report: ChildReport | null = null;
    child.on('message', (message) => {
      report = message as ChildReport;
    });
    child.on('error', reject);
    child.on('exit', (code) => {
      if (report !== null && code === 0) resolve(report);
      else reject(new Error(`the child for ${backend} ${precision} ended with ${code}`));
    });
  });
}

async function main([backendName, precision, threadText]: readonly string[]): Promise<void> {
  const threads = Number(threadText);
  const backend = backendName === 'ort-capi' ? openOrtCapi({ threads, spin: false }) : await openOrtNode({ threads });
  const limits = { rowsMax: 700, lanesMax: 6, slotsMax: 1400, finishRowsMax: 100 };
  const family = await UniversalTransformer.open(backend, await shippedModel(precision as Precision), limits);
  const windows = goldenTexts().map(({ ids }) => ({ ids: Int32Array.from(ids), budget: MODEL_BUDGET }));
  const scored = await scoreWindows(family, windows, limits);
  family.release();
  await backend.release();
  const report: ChildReport = {
    results: scored.map(({ depths, remainders, logprobs }) => ({
      depths: Array.from(depths),
      remainders: Array.from(remainders),
      logprobs: Array.from(logprobs),
    })),
    liveHandles: backend.liveHandles(),
  };
  process.send?.(report);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
