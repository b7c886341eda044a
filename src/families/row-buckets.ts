/**
 * Row counts for which launches are captured. A launch takes the smallest bucket that holds its rows; the rows in between are padding. Up to
 * 128 apart each other bucket is a half more than the last, from 1024 on they are 1024 apart: at most a third of a small launch is
 * padding, and of a large one a ninth on average.
 */
export function rowBuckets(rowsMax: number): number[] {
  const ladder = [64, 128, 192, 256, 384, 512, 768];
  for (let rows = 1024; rows < rowsMax; rows += 1024) ladder.push(rows);
  return [...ladder.filter((rows) => rows < rowsMax), rowsMax];
}

/**
 * Buckets of the rows that only renew their key and value, beside `active` rows: none, eighths up to a half (a quarter is what most models renew),
 * and doubling from there up to all there can be.
 */
export function renewedBuckets(active: number, rowsMax: number): number[] {
  const buckets = [0, 1, 2, 3].map((eighths) => Math.ceil((active * eighths) / 8));
  for (let rows = Math.ceil(active / 2); rows < rowsMax; rows *= 2) buckets.push(rows);
  return [...buckets, rowsMax];
}

export function bucketFor(buckets: readonly number[], rows: number): number {
  const bucket = buckets.find((candidate) => candidate >= rows);
  if (bucket === undefined) throw new RangeError(`${rows} rows exceed the largest bucket of ${buckets.at(-1)}`);
  return bucket;
}
