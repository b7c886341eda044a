/** What a benchmark says of its samples, and the bounds that the arithmetic of a model sets. Pure. */

/** What a figure was over the rounds. The median is quoted: a round that something else disturbed does not move it. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** @throws RangeError when there are no values */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('a median needs at least one value');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] as number) + (sorted[Math.ceil(middle)] as number)) / 2;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** Round by round, so that what slowed both sides of a round cancels. The lists are of one length. */
export function ratioSpread(numerators: readonly number[], denominators: readonly number[]): Spread {
  return spread(numerators.map((value, i) => value / (denominators[i] as number)));
}

/** The nearest-rank quantile: the least sample that at least `share` of the samples do not exceed. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new RangeError('a quantile needs at least one value');
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] as number;
}

export interface StackDimensions {
  readonly width: number;
  readonly feedForward: number;
  readonly vocabulary: number;
}

/** Multiply-adds of one position in one step: four projections, two layers of feed-forward, scores and sums of attention. */
function stepCost({ width, feedForward }: StackDimensions, visibleKeys: number): number {
  return 4 * width ** 2 + 2 * width * feedForward + 2 * width * visibleKeys;
}

/** Multiply-adds that every token pays whatever its depth: the output layer. */
function outputCost({ width, vocabulary }: StackDimensions): number {
  return width * vocabulary;
}

/** Multiply-adds of a halted position that renews its key and value. */
function renewalCost({ width }: StackDimensions): number {
  return 2 * width ** 2;
}

/** Keys that a causal query sees on average over all positions of these lengths, itself included. */
export function meanVisibleKeys(lengths: readonly number[]): number {
  const positions = lengths.reduce((sum, length) => sum + length, 0);
  return lengths.reduce((sum, length) => sum + (length * (length + 1)) / 2, 0) / positions;
}

/**
 * Fixed-depth cost over adaptive cost when every multiply-add costs the same: (F0 + T Fr) / (F0 + m Fr). It is below T / m, because
 * no depth saves the output layer. With `renewalsPerToken` it also counts what adaptive depth costs extra: keys and values of
 * halted positions that are renewed once more for those that still run.
 */
export function arithmeticBound(
  dimensions: StackDimensions,
  depths: { readonly max: number; readonly mean: number },
  visibleKeys: number,
  renewalsPerToken = 0,
): number {
  const once = outputCost(dimensions);
  const step = stepCost(dimensions, visibleKeys);
  const renewals = renewalsPerToken * renewalCost(dimensions);
  return (once + depths.max * step) / (once + depths.mean * step + renewals);
}
