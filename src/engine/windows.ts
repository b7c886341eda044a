/**
 * Long text as overlapping windows: each token is scored exactly once, and after the first window each one is scored with at
 * least `contextTokens - stride` tokens before it (Hugging Face's strided perplexity).
 *
 *     tokens    0 1 2 3 4 5 6 7 8 9         context 4, stride 2, # scored, . context only
 *     window 0  # # # #
 *     window 1      . . # #
 *     window 2          . . # #
 *     window 3              . . # #
 */
export interface WindowSpan {
  /** The window holds the tokens [start, end). */
  readonly start: number;
  readonly end: number;
  /** Index within the window of the first token that no earlier window scored. */
  readonly scoreFrom: number;
}

/**
 * Number of windows, and the tokens of all of them together, without making them: a request is refused by its cost before
 * it costs anything.
 * @param contextTokens tokens one window holds, at least 1 (without `<s>`)
 * @param stride tokens between the beginnings of two windows, 1 ... contextTokens
 */
export function windowCost(tokens: number, contextTokens: number, stride: number): { windows: number; tokens: number } {
  if (tokens <= contextTokens) return { windows: 1, tokens };
  const windows = 1 + Math.ceil((tokens - contextTokens) / stride);
  // All but the last window are full; the last one begins at (windows - 1) * stride and ends with the text.
  return { windows, tokens: (windows - 1) * contextTokens + tokens - (windows - 1) * stride };
}

/** The windows of a text of `tokens` tokens (at least 1); parameters as for `windowCost`. */
export function planWindows(tokens: number, contextTokens: number, stride: number): WindowSpan[] {
  const spans: WindowSpan[] = [];
  let scored = 0;
  for (let start = 0; scored < tokens; start += stride) {
    const end = Math.min(start + contextTokens, tokens);
    spans.push({ start, end, scoreFrom: scored - start });
    scored = end;
  }
  return spans;
}
