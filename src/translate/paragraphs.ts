/**
 * Where plain text has its blocks. Empty lines part paragraphs; inside one, a line break either ends a block (a heading, a list
 * item, a verse) or is the trace of a hard wrap, and the sentence goes on. It is a wrap when the next line begins no list item and
 * - the paragraph is wrapped as a whole: of its lines but the last, three in four are so long that the next one's first word did not
 *   fit within the widest line, which has 50 to 130 columns; and this line is one of those; or
 * - the next line begins with a small letter, and this one has 25 columns and does not end with a colon or what ends a sentence.
 */
import type { DocumentPart } from './block.js';
import { plainBlock } from './block.js';
import { isSpace } from './white-space.js';

const WRAP_COLUMNS_MIN = 50;
const WRAP_COLUMNS_MAX = 130;
const WRAPPED_SHARE_MIN = 0.75;
const CONTINUED_COLUMNS_MIN = 25;
/** Longer paragraphs are taken in pieces. */
const PARAGRAPH_LINES_MAX = 1000;

/** What marks an item or a heading and is not translated: bullets, numbers, quotation signs. */
export const ITEM =
  /^(?:[\t \u00a0]*(?:[-*+•‣◦–—·▪●○>|]+|#{1,6}|\(?\d{1,3}[.)](?!\d)|\(?[a-zA-Z]\)|\[[ xX\d]{1,3}\]|\(?[ivxIVX]{1,4}\)))+[\t \u00a0]+/u;

interface Line {
  readonly start: number;
  /** Before the line break. */
  readonly end: number;
}

/** The blocks of a text and what lies between them. Yields null between paragraphs, where the caller may pause. */
export function* plainParts(text: string): Generator<DocumentPart | null> {
  let literalFrom = 0;
  for (const paragraph of paragraphs(text)) {
    for (const { start, end } of blocksOf(text, paragraph)) {
      if (start > literalFrom) yield { kind: 'literal', start: literalFrom, end: start };
      yield { kind: 'block', start, end, block: plainBlock(text.slice(start, end), start) };
      literalFrom = end;
    }
    yield null;
  }
  if (text.length > literalFrom) yield { kind: 'literal', start: literalFrom, end: text.length };
}

function* paragraphs(text: string): Generator<Line[]> {
  let lines: Line[] = [];
  let blank = 0;
  const breaks = /\r\n|[\n\r\f\v\x85\u2028\u2029]/g;
  for (let start = 0; start <= text.length; ) {
    breaks.lastIndex = start;
    const found = breaks.exec(text);
    const end = found?.index ?? text.length;
    if (isBlank(text, start, end)) {
      if (lines.length > 0 || ++blank % PARAGRAPH_LINES_MAX === 0) yield lines;
      lines = [];
    } else {
      lines.push({ start, end });
      if (lines.length >= PARAGRAPH_LINES_MAX) {
        yield lines;
        lines = [];
      }
    }
    if (found === null) break;
    start = end + found[0].length;
  }
  if (lines.length > 0) yield lines;
}

function isBlank(text: string, start: number, end: number): boolean {
  for (let i = start; i < end; i++) {
    if (!isSpace(text.charCodeAt(i))) return false;
  }
  return true;
}

function blocksOf(text: string, lines: readonly Line[]): Line[] {
  const fits = wrapTest(text, lines);
  const blocks: { start: number; end: number }[] = [];
  lines.forEach((line, i) => {
    const last = blocks.at(-1);
    const previous = lines[i - 1];
    const content = contentStart(text, line);
    if (last !== undefined && previous !== undefined && isWrap(text, previous, line, fits)) last.end = line.end;
    else blocks.push({ start: Math.min(content, line.end), end: line.end });
  });
  return blocks;
}

/** After indentation, bullets and numbers. */
function contentStart(text: string, { start, end }: Line): number {
  const item = ITEM.exec(text.slice(start, Math.min(end, start + 64)));
  if (item !== null) return start + item[0].length;
  let at = start;
  while (at < end && isBlank(text, at, at + 1)) at++;
  return at;
}

function isWrap(text: string, line: Line, next: Line, wrapped: (line: Line, next: Line) => boolean): boolean {
  const nextLine = text.slice(next.start, Math.min(next.end, next.start + 64));
  if (ITEM.test(nextLine)) return false;
  if (wrapped(line, next)) return true;
  const ending = text.slice(Math.max(line.start, line.end - 3), line.end).trimEnd();
  return (
    /^\s*\p{Ll}/u.test(nextLine) && line.end - line.start >= CONTINUED_COLUMNS_MIN && !/[.!?:…][)"'”’]?$/.test(ending)
  );
}

/** Whether the paragraph is wrapped, and the line one that was broken for its length. */
function wrapTest(text: string, lines: readonly Line[]): (line: Line, next: Line) => boolean {
  const widest = lines.reduce((most, { start, end }) => Math.max(most, end - start), 0);
  const broken = (line: Line, next: Line): boolean => {
    let wordEnd = next.start;
    while (wordEnd < next.end && isBlank(text, wordEnd, wordEnd + 1)) wordEnd++;
    const wordStart = wordEnd;
    while (wordEnd < next.end && !isBlank(text, wordEnd, wordEnd + 1)) wordEnd++;
    return line.end - line.start + 1 + (wordEnd - wordStart) > widest;
  };
  if (lines.length < 2 || widest < WRAP_COLUMNS_MIN || widest > WRAP_COLUMNS_MAX) return () => false;
  let long = 0;
  for (let i = 0; i + 1 < lines.length; i++) if (broken(lines[i] as Line, lines[i + 1] as Line)) long++;
  return long >= WRAPPED_SHARE_MIN * (lines.length - 1) ? broken : () => false;
}
