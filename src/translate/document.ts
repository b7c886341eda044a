/**
 * A text as sentences with what lies between them. Whatever the text is, `before` + source of every sentence, and `after` of the last,
 * put together are the text: translating replaces sentences and touches nothing else.
 */
import type { Block, Mark } from './block.js';
import { htmlParts } from './html.js';
import { plainParts } from './paragraphs.js';
import { sentenceSteps } from './sentences.js';
import type { Range } from './spans.js';

export type Format = 'text' | 'html';

/** One sentence of a document. */
export interface SourceSentence {
  /** In the document, UTF-16 units; and the document's text from there, markup included. */
  readonly offset: number;
  readonly source: string;
  /** Without markup, entities decoded; white space as it was. */
  readonly text: string;
  /** Tags inside the sentence, `at` counted from its start. */
  readonly marks: readonly Mark[];
  /** The document's text of a part of `text`. */
  rawOf(part: Range): string;
  encode(text: string): string;
}

export interface DocumentSentence {
  /** The document from the sentence before. */
  readonly before: string;
  readonly sentence: SourceSentence;
  /** The rest of the document after the last sentence, null after others. */
  readonly after: string | null;
}

/**
 * The sentences in order; null where the caller may pause, several times per millisecond of work. Returns the whole text if it
 * has no sentence, else null.
 */
export function* documentSentences(text: string, format: Format): Generator<DocumentSentence | null, string | null> {
  let from = 0;
  let open: Omit<DocumentSentence, 'after'> | null = null;
  for (const part of format === 'html' ? htmlParts(text) : plainParts(text)) {
    if (part?.kind !== 'block') {
      yield null;
      continue;
    }
    for (const range of sentenceSteps(part.block.text)) {
      if (range === null) {
        yield null;
        continue;
      }
      if (open !== null) yield { ...open, after: null };
      const sentence = sourceSentence(text, part.block, range);
      open = { before: text.slice(from, sentence.offset), sentence };
      from = sentence.offset + sentence.source.length;
    }
  }
  if (open === null) return text;
  yield { ...open, after: text.slice(from) };
  return null;
}

function sourceSentence(document: string, block: Block, range: Range): SourceSentence {
  const inside = marksInside(block.marks, range);
  const first = inside[0];
  const last = inside.at(-1);
  let start = block.offsetOf(range.start, 'after');
  let end = block.offsetOf(range.end, 'before');
  // A tag at the edge that belongs to one within comes along.
  if (first !== undefined) start = Math.min(start, first.offset);
  if (last !== undefined) end = Math.max(end, last.offset + last.raw.length);
  return {
    offset: start,
    source: document.slice(start, end),
    text: block.text.slice(range.start, range.end),
    marks: inside.map((mark) => ({ ...mark, at: mark.at - range.start })),
    rawOf: (part) =>
      document.slice(
        block.offsetOf(range.start + part.start, 'after'),
        block.offsetOf(range.start + part.end, 'before'),
      ),
    encode: block.encode,
  };
}

/** Marks between the sentence's characters, and those at its edges whose partner is between them. */
function marksInside(marks: readonly Mark[], { start, end }: Range): Mark[] {
  if (marks.length === 0) return [];
  const within = firstAtOrAfter(marks, start);
  const near: Mark[] = [];
  for (let i = within; i < marks.length && (marks[i] as Mark).at <= end; i++) near.push(marks[i] as Mark);
  const inside = new Set(near.filter(({ at }) => at > start && at < end));
  const open: Mark[] = [];
  for (const mark of near) {
    if (mark.kind === 'open') open.push(mark);
    if (mark.kind !== 'close' || open.at(-1)?.name !== mark.name) continue;
    const partner = open.pop() as Mark;
    const [atStart, atEnd] = [partner.at === start, mark.at === end];
    if (partner.at === mark.at || atStart === atEnd) continue;
    if (atStart && mark.at < end) inside.add(partner);
    if (atEnd && partner.at > start) inside.add(mark);
  }
  // From the first to the last of them: what lies between in the source stays between.
  const chosen = near.filter((mark) => inside.has(mark));
  const [first, last] = [chosen[0], chosen.at(-1)];
  if (first === undefined || last === undefined) return [];
  return near.slice(near.indexOf(first), near.indexOf(last) + 1);
}

/** Marks are in order of their place; a document in one block may have very many. */
function firstAtOrAfter(marks: readonly Mark[], at: number): number {
  let low = 0;
  let high = marks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((marks[middle] as Mark).at < at) low = middle + 1;
    else high = middle;
  }
  return low;
}
