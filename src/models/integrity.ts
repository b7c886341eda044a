/** Whether the files of a package are the ones its manifest was written for: present, of their size and of their SHA-256. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Manifest } from './manifest.js';

export interface FileCheck {
  readonly file: string;
  /** Size that the manifest gives, in bytes. */
  readonly bytes: number;
  /** What is wrong with the file; null: nothing. */
  readonly problem: string | null;
}

/** Checks every file of the manifest, one after the other: the disk sets the speed either way, and memory stays flat. */
export async function checkFiles(folder: string, files: Manifest['files']): Promise<FileCheck[]> {
  const checks: FileCheck[] = [];
  for (const [file, expected] of Object.entries(files)) {
    checks.push({ file, bytes: expected.bytes, problem: await problemOf(join(folder, file), expected) });
  }
  return checks;
}

async function problemOf(path: string, expected: { bytes: number; sha256: string }): Promise<string | null> {
  try {
    // The size first: it costs nothing, and it spares hashing a file that someone replaced with something huge.
    const found = await stat(path);
    if (!found.isFile()) return 'is not a file';
    if (found.size !== expected.bytes) return `has ${found.size} bytes where the manifest says ${expected.bytes}`;
    const hash = createHash('sha256');
    await pipeline(createReadStream(path), hash);
    const sha256 = hash.digest('hex');
    return sha256 === expected.sha256
      ? null
      : `has sha256 ${sha256.slice(0, 12)}… where the manifest says ${expected.sha256.slice(0, 12)}…`;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'is missing' : `cannot be read (${code ?? message})`;
  }
}
