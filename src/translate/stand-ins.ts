/**
 * Stand-ins: names such as X1 that the model copies where it would garble a placeholder or an address. Of the forms tried (X1,
 * ZX1, __1__, [1], #1, <1>, "1", 7001) all were copied in a simple sentence; X1 is the shortest and takes an article and a
 * hyphen as a German name does.
 */
import type { Range } from './spans.js';

export interface StandIn {
  readonly name: string;
  /** What it stands for. */
  readonly raw: string;
}

/** A text as the model gets it. */
export interface Template {
  readonly text: string;
  readonly standIns: readonly StandIn[];
}

const LETTERS = ['X', 'Q', 'Z', 'K', 'Y', 'W', 'V', 'ZX', 'QX', 'XQ'];

/** Puts a stand-in for each span; `raw` tells what to write back. White space becomes single spaces. */
export function makeTemplate(text: string, spans: readonly Range[], raw: (span: Range) => string): Template {
  if (spans.length === 0) return { text: singleSpaced(text), standIns: [] };
  const letter = LETTERS.find((candidate) => !new RegExp(`${candidate}\\d`, 'i').test(text)) ?? 'XQZ';
  const parts: string[] = [];
  const standIns: StandIn[] = [];
  let from = 0;
  for (const span of spans) {
    const name = `${letter}${standIns.length + 1}`;
    parts.push(text.slice(from, span.start), name);
    standIns.push({ name, raw: raw(span) });
    from = span.end;
  }
  parts.push(text.slice(from));
  return { text: singleSpaced(parts.join('')), standIns };
}

function singleSpaced(text: string): string {
  return text.replace(/\s+/g, ' ').trim();
}

export interface FoundStandIns {
  /** Each said exactly once, in the order of the text. */
  readonly places: readonly (Range & { readonly index: number })[];
  /** Indices of those left out or said more than once. */
  readonly missing: readonly number[];
}

export function findStandIns(said: string, standIns: readonly StandIn[]): FoundStandIns {
  const places: (Range & { index: number })[] = [];
  const missing: number[] = [];
  for (const [index, { name }] of standIns.entries()) {
    const found = [...said.matchAll(new RegExp(`${name}(?!\\d)`, 'g'))];
    const [only] = found;
    if (only === undefined || found.length > 1) missing.push(index);
    else places.push({ start: only.index, end: only.index + name.length, index });
  }
  return { places: places.sort((a, b) => a.start - b.start), missing };
}
