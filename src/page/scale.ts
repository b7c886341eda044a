/**
 * Colours: 16 levels, defined in colours.css for light and dark (YlGnBu and viridis: lightness rises or falls steadily, so they
 * can be told apart without seeing hues). Here a quantity is only given its level.
 */
export const LEVELS = 16;

/** Of a depth from 1 to `maxSteps`. */
export function depthLevel(depth: number, maxSteps: number): number {
  return shareLevel(maxSteps <= 1 ? 0 : (depth - 1) / (maxSteps - 1));
}

/** Of a share from 0 to 1. */
export function shareLevel(share: number): number {
  return Math.max(0, Math.min(LEVELS - 1, Math.round(share * (LEVELS - 1))));
}

/** Of a number of keys: spans go from the ramp to thousands, so their level is that of their logarithm. */
export function spanLevel(keys: number, ramp: number, spanMax: number): number {
  return shareLevel(spanMax <= ramp ? 1 : Math.log(Math.max(1, keys) / ramp) / Math.log(spanMax / ramp));
}
