/** The token sequences that a benchmark scores: cut from one stream of ids, which begins anew when it ends. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The ids of the package's own examples, one after another: what is there without any text. */
export async function goldenIds(packageFolder: string): Promise<Int32Array> {
  const golden = JSON.parse(await readFile(join(packageFolder, 'golden.json'), 'utf8')) as { ids: number[] }[];
  return Int32Array.from(golden.flatMap(({ ids }) => ids));
}

/** The texts of the package's own examples as one text. */
export async function goldenText(packageFolder: string): Promise<string> {
  const golden = JSON.parse(await readFile(join(packageFolder, 'golden.json'), 'utf8')) as { text: string }[];
  return golden.map(({ text }) => text).join('\n\n');
}

/** @param ids at least one */
export function equalSequences(ids: Int32Array, count: number, length: number): Int32Array[] {
  return cut(ids, new Array<number>(count).fill(length));
}

/** Sequences of uniformly drawn lengths, until they hold at least `tokens` together. One seed, one result. */
export function mixedSequences(
  ids: Int32Array,
  { tokens, min, max, seed }: { tokens: number; min: number; max: number; seed: number },
): Int32Array[] {
  const random = mulberry32(seed);
  const lengths: number[] = [];
  for (let left = tokens; left > 0; left -= lengths.at(-1) as number) {
    lengths.push(min + Math.floor(random() * (max - min + 1)));
  }
  return cut(ids, lengths);
}

function cut(ids: Int32Array, lengths: readonly number[]): Int32Array[] {
  let next = 0;
  return lengths.map((length) => Int32Array.from({ length }, () => ids[next++ % ids.length] as number));
}

/** Uniform in [0, 1). */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
