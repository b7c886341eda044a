/** Tiny packages in a temporary folder: valid manifests over files of a few bytes, which nothing here runs. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

export type Json = Record<string, unknown>;

const FILES: Record<string, string> = {
  'weights.bin': 'weights',
  'begin.onnx': 'begin',
  'step.int8.onnx': 'step',
  'finish.int8.onnx': 'finish',
  'finish_top.int8.onnx': 'finish_top',
  'tokenizer.json': '{}',
  'golden.json': '[]',
};

/** A new empty folder that is removed after the test. */
export function temporaryFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-models-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function validManifest(name: string): Json {
  const graph = (file: string) => ({
    file,
    inputs: { ids: { type: 'int32', dims: ['rows'] } },
    outputs: { state_out: { type: 'float32', dims: ['slots', 8] } },
  });
  return {
    format: 'ponder-serve/1',
    name,
    family: 'universal-transformer',
    task: 'score',
    language: 'en',
    dimensions: { d_model: 8, heads: 2, d_ff: 16, vocab: 512, context: 32 },
    halting: {
      act_type: 'accumulated',
      halted_state: 'freeze',
      forced_stop: 'remainder',
      max_steps: 8,
      threshold: 0.99,
    },
    tokens: { bos: 1, eos: 2, pad: 0 },
    parameters: 1234,
    precisions: {
      int8: {
        begin: graph('begin.onnx'),
        step: graph('step.int8.onnx'),
        finish: graph('finish.int8.onnx'),
        finish_top: graph('finish_top.int8.onnx'),
      },
    },
    provenance: { data: 'made up', licence: 'CC0' },
    quality: { checkpoint: { bits_per_byte: 1.42 } },
    files: Object.fromEntries(
      Object.entries(FILES).map(([file, text]) => [
        file,
        { bytes: text.length, sha256: createHash('sha256').update(text).digest('hex') },
      ]),
    ),
  };
}

/** Writes a package; `change` may spoil the manifest first. Returns its folder. */
export function writePackage(models: string, name: string, change: (manifest: Json) => void = () => {}): string {
  const folder = join(models, name);
  mkdirSync(folder);
  for (const [file, text] of Object.entries(FILES)) writeFileSync(join(folder, file), text);
  const manifest = validManifest(name);
  change(manifest);
  writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest));
  return folder;
}

/** Sets the value at a path such as `halting/threshold`; undefined removes the key. */
export function set(manifest: Json, path: string, value: unknown): void {
  const keys = path.split('/');
  const last = keys.pop() as string;
  let at = manifest;
  for (const key of keys) at = at[key] as Json;
  if (value === undefined) delete at[last];
  else at[last] = value;
}
