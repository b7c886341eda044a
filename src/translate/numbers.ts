/**
 * Numbers keep their digits. The model copies nine sentences' numbers in ten; it writes separators the German way (1,234.5 ->
 * 1.234,5), which is right. It writes small numbers as words (3 dogs -> drei Hunde) and counts hours to 24 (1:30 p.m. -> 13:30 Uhr);
 * that is put back here. What is missing after that is translated again (`faithful.ts`).
 */
import type { Range } from './spans.js';

/** With its separators: 1,234.5 and 12.05.2021 and 2:30 are one number each. */
const NUMBER = /\d+(?:[.,:]\d+)*/g;

/** English words that German text may write in digits: where there is one, a number more in the translation is no mistake. */
const NUMBER_WORDS =
  /\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundreds?|thousands?|millions?|billions?|dozens?|first|second|third|\w+th|half|quarter|noon|midnight|o'clock)\b/i;

export interface NumberSpan extends Range {
  readonly written: string;
  readonly digits: string;
  /** An hour before p.m. */
  readonly isAfternoon: boolean;
}

export function numbersIn(text: string): NumberSpan[] {
  return [...text.matchAll(NUMBER)].map(({ 0: written, index }) => {
    const end = index + written.length;
    const isAfternoon = /^\s?p\.?\s?m\b/i.test(text.slice(end, end + 5));
    return { start: index, end, written, digits: written.replace(/\D/g, ''), isAfternoon };
  });
}

/** 1,234.5 -> 1.234,5; null where the separators are not those of one English number (12.05.2021, 1,2,3). */
export function germanForm(written: string): string | null {
  if (!/^\d{1,3}(?:,\d{3})+(?:\.\d+)?$|^\d+\.\d+$/.test(written)) return null;
  return written.replace(/[.,]/g, (separator) => (separator === ',' ? '.' : ','));
}

export interface CheckedNumbers {
  /** The translation with separators and words put right. */
  readonly text: string;
  /** Indices into the source's numbers. */
  readonly missing: readonly number[];
  /** Numbers that the source does not have. */
  readonly foreign: number;
}

/** Compares a translation with the numbers of its source; `source` is text without protected spans, for its number words. */
export function checkNumbers(source: string, numbers: readonly NumberSpan[], translation: string): CheckedNumbers {
  let text = translation;
  let missing = unmatched(numbers, numbersIn(text)).missing;
  for (const index of missing) {
    const number = numbers[index] as NumberSpan;
    text = digitsForWord(halfHour(afternoonHour(text, number), number), number.digits);
  }
  const found = numbersIn(text);
  const matched = unmatched(numbers, found);
  missing = matched.missing;
  for (const [at, number] of [...matched.pairs].reverse()) {
    const { start, end, written } = found[at] as NumberSpan;
    const right = germanForm(number.written);
    if (written === number.written || written === right) continue;
    text = text.slice(0, start) + (right ?? number.written) + text.slice(end);
  }
  return { text, missing, foreign: NUMBER_WORDS.test(source) ? 0 : matched.foreign };
}

/** Matches numbers by their digits; one said twice where the source has it once is a matter of style. */
function unmatched(
  wanted: readonly NumberSpan[],
  found: readonly NumberSpan[],
): { missing: number[]; foreign: number; pairs: Map<number, NumberSpan> } {
  const pairs = new Map<number, NumberSpan>();
  const missing: number[] = [];
  wanted.forEach((number, index) => {
    const at = found.findIndex(({ digits }, i) => digits === number.digits && !pairs.has(i));
    if (at < 0) missing.push(index);
    else pairs.set(at, number);
  });
  let foreign = 0;
  found.forEach((number, i) => {
    if (pairs.has(i)) return;
    const same = wanted.find(({ digits }) => digits === number.digits);
    if (same === undefined) foreign++;
    else pairs.set(i, same);
  });
  return { missing, foreign, pairs };
}

/** 13:30 Uhr -> 1:30 Uhr nachmittags, where the source has 1:30 p.m.; otherwise the text as it is. */
function afternoonHour(text: string, { written, isAfternoon }: NumberSpan): string {
  const [, hour = '', separator = '', minutes = ''] = /^(\d{1,2})(?:([.:])(\d\d))?$/.exec(written) ?? [];
  if (!isAfternoon || hour === '' || Number(hour) >= 12) return text;
  const shown = `${Number(hour) + 12}${minutes === '' ? '(?:[.:]00)?' : `[.:]${minutes}`}`;
  const when = Number(hour) < 6 ? 'nachmittags' : 'abends';
  const own = `${hour}${separator}${minutes}`;
  return text.replace(new RegExp(`(?<![\\d.,:])${shown}\\s?Uhr(?! (?:nachmittags|abends))`), `${own} Uhr ${when}`);
}

/** halb drei -> 2:30 Uhr, where the source has 2:30; otherwise the text as it is. */
function halfHour(text: string, { written }: NumberSpan): string {
  const hour = /^(\d{1,2})[.:]30$/.exec(written)?.[1];
  const next = hour === undefined ? undefined : CARDINALS[(Number(hour) % 12) + 1];
  if (next === undefined) return text;
  return text.replace(new RegExp(`(?<!\\p{L})halb ${next}(?: Uhr)?(?!\\p{L})`, 'iu'), `${written} Uhr`);
}

const CARDINALS: readonly string[] = (
  'null (?:ein(?:s|e[nmrs]?)?) zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn ' +
  'sechzehn siebzehn achtzehn neunzehn zwanzig'
).split(' ');
const ORDINALS: readonly string[] =
  ' erst zweit dritt viert fünft sechst (?:siebt|siebent) acht neunt zehnt elft zwölft'.split(' ');
/** What a number makes one word with: dreijährig is 3-jährig. */
const COMPOUND =
  '(?=(?:jährig|monatig|wöchig|tägig|stündig|minütig|malig|mal|fach|stellig|köpfig|teilig|stöckig|seitig))';

/** Writes a number that stands in words, once, in digits; otherwise the text as it is. */
function digitsForWord(text: string, digits: string): string {
  const value = /^\d{1,2}$/.test(digits) ? Number(digits) : Number.NaN;
  const cardinal = CARDINALS[value];
  if (cardinal === undefined) return text;
  const ordinal = ORDINALS[value] || null;
  const tries: [string, string][] = [
    [`(?<![\\p{L}\\d])${cardinal}(?![\\p{L}\\d])`, digits],
    [`(?<![\\p{L}\\d])${cardinal}${COMPOUND}`, `${digits}-`],
  ];
  if (ordinal !== null) tries.push([`(?<![\\p{L}\\d])${ordinal}e[nmrs]?(?![\\p{L}\\d])`, `${digits}.`]);
  for (const [pattern, replacement] of tries) {
    const found = [...text.matchAll(new RegExp(pattern, 'giu'))];
    const [only] = found;
    if (only === undefined || found.length > 1) continue;
    return text.slice(0, only.index) + replacement + text.slice(only.index + only[0].length);
  }
  return text;
}
