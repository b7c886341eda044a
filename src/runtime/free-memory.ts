/**
 * Gives what the C library holds but nobody uses back to the system. Opening a model takes far more memory than it keeps, and the freed memory
 * of a thread that is gone stays in that thread's arena, where its successor does not look: without this each killed engine left up to
 * 200 MB resident.
 */
import { loadNative } from './native-calls.js';

let trim: ((pad: number) => number) | null | undefined;

/** Does nothing where the C library is not glibc. */
export function trimFreeMemory(): void {
  // Null where there is none: it is looked for once.
  if (trim === undefined) trim = loadTrim();
  trim?.(0);
}

function loadTrim(): typeof trim {
  if (process.platform !== 'linux') return null;
  try {
    return loadNative('libc.so.6').func('int malloc_trim(size_t pad)') as (pad: number) => number;
  } catch {
    return null;
  }
}
