/**
 * A sentence with tags in it. The model garbles tags, so it never sees one; two ways bring them back:
 *
 *   aligned  the sentence is translated without tags and each tagged stretch by itself; the tags go around the words of the sentence
 *            that are the stretch's own, or its translation, inflected or not: "the <b>red</b> button" -> "der <b>rote</b> Knopf"
 *   apart    where a stretch is not found, where tags cross each other, and beside elements that are not translated: each run
 *            between tags is translated by itself, and the tags stay between them
 *
 * Either way each tag of the source is in the output once, in an order that nests as the source's does; nothing else is.
 */
import type { Mark } from './block.js';
import type { SourceSentence } from './document.js';
import {
  type FaithfulDependencies,
  partOf,
  type SpokenToken,
  type Stretch,
  translatePiece,
  translateStretch,
} from './faithful.js';
import { OBJECT, type Range } from './spans.js';
import { addCosts, concatenate, literal, type Translation } from './translation.js';

/** Tagged stretches of one sentence that are aligned; with more of them it is hardly a sentence. */
const PAIRS_MAX = 8;

/** Out of its sentence a word has several translations: the sentence has one of them. */
const CONTENT_BEAM = 4;

interface Pair extends Range {
  readonly open: string;
  readonly close: string;
  readonly inner: readonly Pair[];
}

export async function translateMarked(
  deps: FaithfulDependencies,
  sentence: SourceSentence,
  onToken: SpokenToken | null,
): Promise<Translation> {
  const { text, marks } = sentence;
  if (marks.length === 0) return translateStretch(deps, sentence, onToken);
  const pairs = text.includes(OBJECT) ? null : nestedPairs(marks);
  if (pairs === null || marks.length > 2 * PAIRS_MAX) return translateApart(deps, sentence);
  const [plain, contents] = await Promise.all([
    translateStretch(deps, withoutMarks(sentence)),
    translateContents(deps, sentence, pairs),
  ]);
  const candidates = plain.candidates.flatMap(({ text: translated, score }) => {
    const placed = place(translated, { start: 0, end: text.length }, pairs, contents, sentence);
    return placed === null ? [] : [{ text: placed, score }];
  });
  const cost = [...contents.values()].reduce((sum, content) => addCosts(sum, content.cost), plain.cost);
  const best = plain.candidates[0];
  const bestPlaced = best !== undefined && candidates[0]?.score === best.score;
  if (bestPlaced) return { candidates, lanes: plain.lanes, cost };
  const apart = await translateApart(deps, sentence);
  return { ...apart, cost: addCosts(apart.cost, cost) };
}

/** Spans of the text are written as text: what lies between their place in the source may be tags. */
function withoutMarks({ text, encode }: SourceSentence): Stretch {
  return { text, encode, rawOf: ({ start, end }) => encode(text.slice(start, end)) };
}

/** The pairs of a sentence as a tree; null if there is anything but pairs that nest around text. */
function nestedPairs(marks: readonly Mark[]): Pair[] | null {
  const top: Pair[] = [];
  const stack: { mark: Mark; inner: Pair[] }[] = [];
  for (const mark of marks) {
    if (mark.kind === 'single') return null;
    if (mark.kind === 'open') {
      stack.push({ mark, inner: [] });
      continue;
    }
    const open = stack.pop();
    if (open === undefined || open.mark.name !== mark.name || open.mark.at === mark.at) return null;
    const pair = { start: open.mark.at, end: mark.at, open: open.mark.raw, close: mark.raw, inner: open.inner };
    (stack.at(-1)?.inner ?? top).push(pair);
  }
  return stack.length === 0 ? top : null;
}

function allPairs(pairs: readonly Pair[]): Pair[] {
  return pairs.flatMap((pair) => [pair, ...allPairs(pair.inner)]);
}

async function translateContents(
  deps: FaithfulDependencies,
  sentence: SourceSentence,
  pairs: readonly Pair[],
): Promise<Map<Pair, Translation>> {
  const plain = withoutMarks(sentence);
  const several = { ...deps, settings: { ...deps.settings, beam: Math.max(deps.settings.beam, CONTENT_BEAM) } };
  const translated = allPairs(pairs).map(async (pair): Promise<[Pair, Translation]> => {
    const part = partOf(plain, sentence.text.slice(pair.start, pair.end), pair.start);
    return [pair, await translateStretch(several, part)];
  });
  return new Map(await Promise.all(translated));
}

/** The translation of `within` with the tags around their words; null if a tagged stretch is not found. */
function place(
  translated: string,
  within: Range,
  pairs: readonly Pair[],
  contents: ReadonlyMap<Pair, Translation>,
  sentence: Pick<SourceSentence, 'text' | 'encode'>,
): string | null {
  const { text, encode } = sentence;
  const taken: Range[] = [];
  const placed: (Range & { readonly text: string })[] = [];
  for (const pair of pairs) {
    const isWhole = pair.start === within.start && pair.end === within.end;
    const about = translated.length * ((pair.start - within.start) / (within.end - within.start));
    const sought = [
      encode(text.slice(pair.start, pair.end)),
      ...(contents.get(pair)?.candidates ?? []).map((candidate) => candidate.text),
    ];
    const range = isWhole ? { start: 0, end: translated.length } : find(translated, sought, about, taken);
    if (range === null) return null;
    taken.push(range);
    const words = translated.slice(range.start, range.end);
    const inner = place(words, pair, pair.inner, contents, sentence);
    if (inner === null) return null;
    placed.push({ ...range, text: pair.open + inner + pair.close });
  }
  let result = '';
  let from = 0;
  for (const { start, end, text: tagged } of placed.sort((a, b) => a.start - b.start)) {
    result += translated.slice(from, start) + tagged;
    from = end;
  }
  return result + translated.slice(from);
}

const WORD = /[\p{L}\p{N}]+(?:[-'’.][\p{L}\p{N}]+)*/gu;

/** The words of `translated` that are one of `wanted`, nearest to `about` and free; exactly, then inflected; null if there are none. */
function find(translated: string, wanted: readonly string[], about: number, taken: readonly Range[]): Range | null {
  const words = [...translated.matchAll(WORD)].map(({ 0: word, index }) => {
    return { word: word.toLowerCase(), start: index, end: index + word.length };
  });
  const free = ({ start, end }: Range): boolean => taken.every((other) => other.end <= start || end <= other.start);
  const nearest = (same: (a: string, b: string) => boolean, text: string): Range | null => {
    const sought = text.toLowerCase().match(WORD) ?? [];
    if (sought.length === 0) return null;
    let best: Range | null = null;
    for (let i = 0; i + sought.length <= words.length; i++) {
      if (!sought.every((word, k) => same(words[i + k]?.word ?? '', word))) continue;
      const range = { start: words[i]?.start ?? 0, end: words[i + sought.length - 1]?.end ?? 0 };
      if (!free(range)) continue;
      if (best === null || Math.abs(range.start - about) < Math.abs(best.start - about)) best = range;
    }
    return best;
  };
  for (const same of [(a: string, b: string) => a === b, inflected]) {
    for (const text of wanted) {
      const range = nearest(same, text);
      if (range !== null) return range;
    }
  }
  return null;
}

/** rot, rote, roten; Knopf, Knopfs: the same beginning of three letters and of three fifths of the longer word. */
function inflected(a: string, b: string): boolean {
  let same = 0;
  while (same < a.length && same < b.length && a[same] === b[same]) same++;
  return a === b || (same >= 3 && same >= 0.6 * Math.max(a.length, b.length));
}

/** Run by run between the tags. */
async function translateApart(deps: FaithfulDependencies, sentence: SourceSentence): Promise<Translation> {
  const { text, marks } = sentence;
  const parts: (Translation | Promise<Translation>)[] = [];
  let from = 0;
  for (const mark of [...marks, null]) {
    const to = mark?.at ?? text.length;
    if (to > from) parts.push(translatePiece(deps, sentence, { start: from, end: to }, false));
    if (mark !== null) parts.push(literal(mark.raw));
    from = to;
  }
  return concatenate(await Promise.all(parts));
}
