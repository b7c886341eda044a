/** Least squares y = intercept + slope x over at least two different x. */
export function linearFit(points: readonly (readonly [x: number, y: number])[]): { slope: number; intercept: number } {
  const mean = (of: 0 | 1) => points.reduce((sum, point) => sum + point[of], 0) / points.length;
  const [meanX, meanY] = [mean(0), mean(1)];
  let products = 0;
  let squares = 0;
  for (const [x, y] of points) {
    products += (x - meanX) * (y - meanY);
    squares += (x - meanX) ** 2;
  }
  if (!(squares > 0)) throw new RangeError('a line needs at least two different places');
  const slope = products / squares;
  return { slope, intercept: meanY - slope * meanX };
}
