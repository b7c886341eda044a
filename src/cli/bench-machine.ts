/** Where and of what a measurement was made: kept with every result. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { VERSION } from '../version.js';

export interface Machine {
  readonly version: string;
  /** null outside a git checkout. */
  readonly commit: string | null;
  /** Tracked files differ from the commit. */
  readonly dirty: boolean | null;
  readonly node: string;
  readonly onnxruntime: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
}

export async function describeMachine(): Promise<Machine> {
  const status = await git('status', '--porcelain', '--untracked-files=no');
  return {
    version: VERSION,
    commit: await git('rev-parse', 'HEAD'),
    dirty: status === null ? null : status !== '',
    node: process.versions.node,
    onnxruntime: onnxruntimeVersion(),
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
  };
}

/** `null` when there is no git, or no repository that holds this code. */
async function git(...args: string[]): Promise<string | null> {
  try {
    const cwd = fileURLToPath(new URL('../../..', import.meta.url));
    return (await promisify(execFile)('git', args, { cwd })).stdout.trim();
  } catch {
    return null;
  }
}

/** Of the package, read without loading it: that would make ONNX Runtime's one environment of this process. */
function onnxruntimeVersion(): string {
  const entry = createRequire(import.meta.url).resolve('onnxruntime-node');
  const file = entry.replace(/(node_modules[\\/]onnxruntime-node[\\/]).*$/, '$1package.json');
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
