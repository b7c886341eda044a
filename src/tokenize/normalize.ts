/**
 * Unicode NFC that keeps track of where everything came from, in slices. The text is normalised cluster by cluster, a cluster
 * being a character and all that may combine with it; no composition crosses a cluster, so the result is that of normalising
 * the whole. Tokens that begin inside a cluster that changed are reported at that cluster's start.
 */

/** The text after normalisation and, for ascending offsets into it, the offsets into the original. */
export interface Normalized {
  readonly text: string;
  /** Translates in place; `offsets` ascend and the last may be `text.length`. */
  toOriginal(offsets: Int32Array): void;
}

/** Code points that compose with the one before them: marks, the vowels and finals of Hangul, one vowel of Kirat Rai. */
const COMBINES_BACK = /[\p{M}\u1161-\u1175\u11a8-\u11c2\u{16d67}]/u;

/** Units normalised in one go. */
const CHUNK_UNITS = 8192;
/**
 * Longer clusters are cut, and the halves normalised apart. Reordering marks is quadratic in their number (160,000 on one
 * letter block the thread for 7 s), and no writing stacks more than a few: UAX #15 calls 30 the limit of "stream-safe" text.
 */
const CLUSTER_UNITS_MAX = 256;

/** From `start` in the normalised text on, offsets count from `original`, or all equal it where the text changed. */
interface Segment {
  readonly start: number;
  readonly original: number;
  readonly changed: boolean;
}

export function* nfcSteps(text: string): Generator<void, Normalized> {
  const parts: string[] = [];
  const segments: Segment[] = [];
  let length = 0;
  const add = (normalized: string, original: number, changed: boolean): void => {
    const last = segments.at(-1);
    const continues =
      last !== undefined && !changed && !last.changed && original - last.original === length - last.start;
    if (!continues) segments.push({ start: length, original, changed });
    parts.push(normalized);
    length += normalized.length;
  };
  for (let at = 0; at < text.length; ) {
    const end = clusterBoundary(text, at, CHUNK_UNITS);
    const chunk = text.slice(at, end);
    if (chunk.normalize('NFC') === chunk) {
      add(chunk, at, false);
    } else {
      for (let from = 0; from < chunk.length; ) {
        const to = clusterEnd(chunk, from);
        const cluster = chunk.slice(from, to);
        const normalized = cluster.normalize('NFC');
        add(normalized, at + from, normalized !== cluster);
        from = to;
      }
    }
    at = end;
    yield;
  }
  return { text: parts.join(''), toOriginal: (offsets) => translate(offsets, segments, length, text.length) };
}

/** The last place within `units` of `from` where the text may be cut; somewhere else only if a cluster exceeds its limit. */
function clusterBoundary(text: string, from: number, units: number): number {
  const furthest = from + units;
  if (furthest >= text.length) return text.length;
  for (let at = furthest; at > furthest - CLUSTER_UNITS_MAX; at--) {
    if (!isLowSurrogate(text, at) && !COMBINES_BACK.test(characterAt(text, at))) return at;
  }
  return isLowSurrogate(text, furthest) ? furthest - 1 : furthest;
}

function clusterEnd(text: string, from: number): number {
  let at = from + characterAt(text, from).length;
  while (at < text.length && at - from < CLUSTER_UNITS_MAX && COMBINES_BACK.test(characterAt(text, at))) {
    at += characterAt(text, at).length;
  }
  return at;
}

function characterAt(text: string, at: number): string {
  return String.fromCodePoint(text.codePointAt(at) as number);
}

function isLowSurrogate(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800;
}

function translate(offsets: Int32Array, segments: readonly Segment[], length: number, originalLength: number): void {
  let index = 0;
  for (let i = 0; i < offsets.length; i++) {
    const offset = offsets[i] as number;
    if (offset === length) {
      offsets[i] = originalLength;
      continue;
    }
    while (index + 1 < segments.length && (segments[index + 1] as Segment).start <= offset) index++;
    const segment = segments[index] as Segment;
    offsets[i] = segment.changed ? segment.original : segment.original + offset - segment.start;
  }
}
