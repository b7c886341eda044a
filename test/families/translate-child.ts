/**
 * Translates the golden sentences, greedily and with a beam of 4, in a process of its own and sends the results: ONNX Runtime has
 * one environment a process, so two backends, or two counts of threads, need two. Arguments: backend, precision, threads.
 */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { SentenceResult } from '../../src/engine/protocol.js';
import type { TranslateLimits } from '../../src/engine/translate-stage.js';
import type { Precision } from '../../src/models/manifest.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { openOrtNode } from '../../src/runtime/ort-node.js';
import { goldenSentences, MAX_NEW_TOKENS, MAX_STEPS, openTranslation, sentence, translateAll } from './translating.js';

export interface ChildSettings {
  readonly backend: 'ort-capi' | 'ort-node';
  readonly precision: Precision;
  readonly threads: number;
}

export interface ChildReport {
  readonly greedy: readonly SentenceResult[];
  readonly beam: readonly SentenceResult[];
  readonly liveHandles: number;
}

/** All golden sentences in one engine, refilled as it empties. */
export function translateInChild({ backend, precision, threads }: ChildSettings): Promise<ChildReport> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), [backend, precision, String(threads)], {
      execArgv: [],
      serialization: 'advanced',
    });
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

// onnxruntime-node copies whole pools at each step: they are no larger than they must be, and it searches one beam.
const BEAMS_OF_ORT_NODE = 1;
const LIMITS: TranslateLimits = {
  encoder: { rowsMax: 40, lanesMax: 4, slotsMax: 60, finishRowsMax: 30 },
  memoryRowsMax: 110,
  decoder: { rowsMax: 20, cacheRowsMax: 4 * MAX_NEW_TOKENS * MAX_STEPS + 100 },
};

async function main([backendName, precision, threadText]: readonly string[]): Promise<void> {
  const threads = Number(threadText);
  const backend = backendName === 'ort-capi' ? openOrtCapi({ threads, spin: false }) : await openOrtNode({ threads });
  const family = await openTranslation(backend, precision as Precision, LIMITS);
  const golden = goldenSentences();
  const translate = (beam: number, count: number) => {
    const sentences = golden.slice(0, count).map(({ source_ids }) => sentence(source_ids, { beam }));
    return translateAll(family, sentences, LIMITS);
  };
  const greedy = await translate(1, golden.length);
  const beam = await translate(4, backendName === 'ort-node' ? BEAMS_OF_ORT_NODE : golden.length);
  family.release();
  await backend.release();
  const report: ChildReport = { greedy, beam, liveHandles: backend.liveHandles() };
  process.send?.(report);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
