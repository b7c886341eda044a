/** A sentence that was wrapped over lines in the source is wrapped over as many in its translation. */
import { protectedSpans } from './spans.js';

const WRAP = /[^\S\r\n]*(?:\r\n|[\n\r\f\v\x85\u2028\u2029])\s*/g;

/**
 * Puts the line breaks of `source`, with their indentation, between words of `text`, each as far into it as it was into the source.
 * A translation with fewer spaces than breaks gets as many as it has spaces.
 */
export function wrapLike(source: string, text: string): string {
  const breaks = [...source.matchAll(WRAP)];
  if (breaks.length === 0) return text;
  const spans = protectedSpans(text);
  const spaces = [...text.matchAll(/ /g)]
    .map(({ index }) => index)
    .filter((at) => !spans.some(({ start, end }) => start <= at && at < end));
  let result = '';
  let from = 0;
  let next = 0;
  breaks.forEach(({ 0: lineBreak, index }, i) => {
    const about = (index / source.length) * text.length;
    // The breaks after this one need a space each.
    const last = spaces.length - (breaks.length - i);
    while (next < last && Math.abs((spaces[next + 1] as number) - about) < Math.abs((spaces[next] as number) - about))
      next++;
    const at = spaces[next];
    if (at === undefined) return;
    result += text.slice(from, at) + lineBreak;
    from = at + 1;
    next++;
  });
  return result + text.slice(from);
}
