/** How far heads look back: their own spans, the cap of a request, and the beginning of the text. */

export interface SpanFacts {
  /** `dynamic`: each token sets the spans of its heads anew, and `keys` are the most that a head may ask for. */
  readonly kind: 'adaptive' | 'dynamic';
  readonly span_max: number;
  readonly ramp: number;
  /** Keys of each layer and head, ramp included. */
  readonly keys: readonly (readonly number[])[];
}

/** Keys of each layer and head under a request's cap of the span, to which the ramp comes on top; null: no cap. */
export function cappedKeys({ keys, ramp }: SpanFacts, cap: number | null): number[][] {
  return keys.map((heads) => heads.map((own) => (cap === null ? own : Math.min(own, cap + ramp))));
}

/**
 * Keys that a head with so many of them had when it predicted the token at `index`. The token before it asks, and attends to what
 * stands before itself: to the tokens from `index - 2` back, and to the start.
 */
export function looked(keys: number, index: number): number {
  return Math.min(keys, index);
}

/** How far back a head must look from there to see the token at `seen`; 0 for the one that asks. */
export function distanceTo(seen: number, index: number): number {
  return index - 1 - seen;
}

/** Share of the heads that look at least so far back, from the spans of all of them. */
export function shareLooking(spans: readonly number[], distance: number): number {
  return spans.length === 0 ? 0 : spans.filter((keys) => keys >= distance).length / spans.length;
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
