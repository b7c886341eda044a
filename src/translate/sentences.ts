/**
 * The sentences of a block: `Intl.Segmenter` proposes, and what it gets wrong is put right. It parts after the stop of
 * abbreviations and initials, and after "!" inside a sentence; it never parts a decimal, an address or what goes on with a small
 * letter after a stop.
 */
import { hasWords, protectedSpans, type Range } from './spans.js';
import { isSpace } from './white-space.js';

/** Longer sentences are no sentences; they are cut before the tokeniser and the patterns of spans see them. */
export const SENTENCE_UNITS_MAX = 2000;
/** Longer runs without white space are no words: data that passes as it is. */
const WORD_UNITS_MAX = 256;
/** The segmenter sees this much at a time. */
const CHUNK_UNITS = 4096;

const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' });

/** A name or a number follows. */
const TITLES =
  /(?:^|[\s("'“‘[])(?:Mrs?|Ms|Mx|Messrs|Drs?|Profs?|Sta?|Sts|Gens?|Sens?|Reps?|Govs?|Lts?|Cols?|Maj|Cmdr|Adm|Sgt|Cpl|Capts?|Revs?|Hon|Pres|Supt|Insp|Det|Msgr|Fr|Mt|Ft|vs|v|cf|viz|e\.?\s?g|i\.?\s?e|ca|approx|resp|esp|incl|excl|al|Ph|M\.?\s?Sc|B\.?\s?Sc|D\.?\s?Phil)\.["'”’)]?$/;
/** A number follows, else it ends the sentence. */
const BEFORE_NUMBER =
  /(?:^|[\s("'“‘[])(?:Nos?|nos?|Nrs?|Figs?|figs?|Eqs?|eqs?|Tab|pp?|Pp?|Vols?|vols?|Secs?|secs?|Arts?|arts?|Chs?|chs?|Chaps?|chaps?|par|paras?|ll?|Bd|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|tel|Tel|ext|Ext|Rs|Re|Op|op)\.$/;
/** The sentence may go on or end; it ends when a common first word follows. */
const EITHER =
  /(?:^|[\s("'“‘[])(?:(?:\p{Lu}\.)+|(?:\p{Lu}\.\s?)*\p{Lu}\.|Inc|Ltd|Co|Corp|Bros|Jr|Sr|Esq|Ave|Blvd|Rd|Dept|Univ|Assn|etc|[ap]\.\s?m|Ph\.?D)\.?$/u;
const FIRST_WORDS =
  /^["'“‘([]?(?:The|This|That|These|Those|There|He|She|It|They|We|You|I|If|In|On|At|As|A|An|And|But|Or|So|For|From|When|While|What|Who|Why|How|Where|After|Before|However|His|Her|Its|Their|Our|My|Your|Not|No|Yes|With|To|By|Some|Many|Most|All|Both|Then|Now|Since|Although|Even|Once)\b/;

/** The sentences, without the white space around them; what has no words lies between them. Yields null where the caller may pause. */
export function* sentenceSteps(text: string): Generator<Range | null> {
  for (const run of wordRuns(text)) {
    const runText = text.slice(run.start, run.end);
    for (const sentence of wholeSentences(runText)) {
      if (sentence === null) yield null;
      else yield* wordsOf(runText, sentence, run.start);
    }
  }
}

function* wordsOf(text: string, sentence: Range, offset: number): Generator<Range> {
  for (const part of boundedParts(text, trimmed(text, sentence))) {
    const words = trimmedToWords(text, part);
    if (words !== null) yield { start: offset + words.start, end: offset + words.end };
  }
}

/** The text without its runs of more than WORD_UNITS_MAX without white space. Not by a pattern: it has a megabyte to go through. */
function wordRuns(text: string): Range[] {
  const runs: Range[] = [];
  let from = 0;
  let wordStart = 0;
  for (let at = 0; at <= text.length; at++) {
    if (at < text.length && !isSpace(text.charCodeAt(at))) continue;
    if (at - wordStart > WORD_UNITS_MAX) {
      if (wordStart > from) runs.push({ start: from, end: wordStart });
      from = at;
    }
    wordStart = at + 1;
  }
  if (from < text.length) runs.push({ start: from, end: text.length });
  return runs;
}

function* segments(text: string): Generator<Range | null> {
  for (let from = 0; from < text.length; ) {
    // A wrapped line goes on: the segmenter would part at every line break.
    const chunk = text.slice(from, from + CHUNK_UNITS).replace(/[\t\n\v\f\r\x85\u2028\u2029]/g, ' ');
    const found = Array.from(segmenter.segment(chunk), ({ index, segment }) => {
      return { start: from + index, end: from + index + segment.length };
    });
    // The last one may go on in the next chunk.
    if (from + chunk.length < text.length && found.length > 1) found.pop();
    yield* found;
    yield null;
    from = found.at(-1)?.end ?? text.length;
  }
}

function* wholeSentences(text: string): Generator<Range | null> {
  let open: Range | null = null;
  for (const segment of segments(text)) {
    if (segment === null) yield null;
    else if (open !== null && !endsSentence(text, open, segment)) open = { start: open.start, end: segment.end };
    else {
      if (open !== null) yield open;
      open = segment;
    }
  }
  if (open !== null) yield open;
}

function endsSentence(text: string, before: Range, after: Range): boolean {
  const ending = text.slice(Math.max(before.start, before.end - 40), before.end).trimEnd();
  const next = text.slice(after.start, Math.min(after.end, after.start + 40));
  if (/^["'“‘([]?\p{Ll}/u.test(next)) return false;
  // What has no word of its own (1., "...", a closing quote) belongs to what follows or precedes.
  if (!/[\p{L}\p{N}]/u.test(next)) return false;
  if (!/[\p{L}\p{N}]/u.test(text.slice(before.start, before.end))) return false;
  if (/^\s*\(?\d{1,3}[.)]$/.test(text.slice(before.start, before.end).trimEnd())) return false;
  if (TITLES.test(ending)) return false;
  if (BEFORE_NUMBER.test(ending)) return !/^[(["']?[\dIVXLC]/.test(next);
  if (EITHER.test(ending)) return FIRST_WORDS.test(next);
  return true;
}

function trimmed(text: string, { start, end }: Range): Range {
  while (start < end && /\s/.test(text[start] as string)) start++;
  while (end > start && /\s/.test(text[end - 1] as string)) end--;
  return { start, end };
}

/** Parts of at most SENTENCE_UNITS_MAX, cut at a clause if there is one in the second half, else between words. */
function* boundedParts(text: string, { start, end }: Range): Generator<Range> {
  let from = start;
  while (end - from > SENTENCE_UNITS_MAX) {
    const cut = from + cutPlace(text.slice(from, from + SENTENCE_UNITS_MAX));
    yield trimmed(text, { start: from, end: cut });
    from = cut;
  }
  yield trimmed(text, { start: from, end });
}

const CUTS: readonly RegExp[] = [/[.!?…]["'”’)]*\s/g, /[;:]\s|\s(?:--|[–—])\s/g, /,\s/g, /\s/g];

/**
 * Where to cut a text that is too long: after the last clause of its second half, then after a comma, between words, and at last
 * between two code points. Above 0, at most its length.
 */
export function cutPlace(text: string): number {
  for (const cut of CUTS) {
    const places = [...text.matchAll(cut)].map(({ 0: found, index }) => index + found.length);
    const place = places.filter((at) => at >= text.length / 2 && at < text.length).at(-1);
    if (place !== undefined) return place;
  }
  const last = text.charCodeAt(text.length - 1);
  return text.length > 1 && (last & 0xfc00) === 0xd800 ? text.length - 1 : text.length;
}

/** Without spans and signs at either end that are not language (emoji, bullets, a URL by itself); null when nothing is left. */
function trimmedToWords(text: string, range: Range): Range | null {
  const sentence = text.slice(range.start, range.end);
  const spans = protectedSpans(sentence);
  if (!hasWords(sentence, spans)) return null;
  let start = 0;
  let end = sentence.length;
  for (const span of spans) {
    if (!isForeign(sentence, span) || /\S/.test(sentence.slice(start, span.start))) break;
    start = span.end;
  }
  for (const span of [...spans].reverse()) {
    if (!isForeign(sentence, span) || /\S/.test(sentence.slice(span.end, end))) break;
    end = span.start;
  }
  const words = trimmed(sentence, { start, end });
  return { start: range.start + words.start, end: range.start + words.end };
}

/** A span without any letter or digit of ours can stand outside of the sentence; an address or a placeholder is part of it. */
function isForeign(text: string, { start, end }: Range): boolean {
  return !/[\p{Script=Latin}\d{}%$<>\ufffc]/u.test(text.slice(start, end));
}
