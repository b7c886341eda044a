/**
 * Translates a stretch of one sentence so that its spans (`spans.ts`) and numbers come out as they went in. Measured on the
 * shipped model, the attempts in their order, each for what the one before lost:
 *
 *   1  spans as stand-ins, numbers as they are; of several hypotheses the best that keeps everything
 *   2  the numbers that were lost as stand-ins too, with a beam, for more hypotheses to choose from
 *   3  around what was lost, piece by piece: it stays in its place, whatever the model does
 *
 * A stretch that is longer than the model's context is cut at a clause, then between words, then anywhere.
 */
import type { TranslationHypothesis } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';
import type { Tokenizer } from '../tokenize/types.js';
import type { Lanes } from './lanes.js';
import { checkNumbers, type NumberSpan, numbersIn } from './numbers.js';
import { cutPlace } from './sentences.js';
import { hasWords, protectedSpans, type Range } from './spans.js';
import { findStandIns, makeTemplate, type StandIn, type Template } from './stand-ins.js';
import { addCosts, type Candidate, concatenate, costOf, literal, type Translation } from './translation.js';
import type { TranslateSettings } from './types.js';

const RETRY_BEAM = 4;

/** Text to translate, and how to write what is not translated. */
export interface Stretch {
  readonly text: string;
  rawOf(part: Range): string;
  encode(text: string): string;
}

export function partOf({ rawOf, encode }: Stretch, text: string, from: number): Stretch {
  return { text, encode, rawOf: ({ start, end }) => rawOf({ start: start + from, end: end + from }) };
}

/** Hears of a token with the text that is decided so far. */
export type SpokenToken = (id: number, logprob: number, depth: number, textSoFar: string) => void;

export interface FaithfulDependencies {
  readonly lanes: Pick<Lanes, 'translate'>;
  readonly tokenizer: Tokenizer;
  readonly model: Pick<ModelDescription, 'contextTokens' | 'eosId'>;
  readonly settings: Pick<TranslateSettings, 'maxNewTokens' | 'beam'>;
  /** Adds up the time spent on tokens. */
  readonly onTokenized: (ms: number) => void;
  readonly now: () => number;
}

/** What an attempt gave, and what of the stretch it lost. */
interface Attempt {
  readonly translation: Translation;
  readonly lost: readonly Range[];
  /** A number that the source has not. */
  readonly invented: boolean;
}

/** @throws what the lanes do */
export async function translateStretch(
  deps: FaithfulDependencies,
  stretch: Stretch,
  onToken: SpokenToken | null = null,
  urgent = false,
): Promise<Translation> {
  const spans = protectedSpans(stretch.text);
  if (!hasWords(stretch.text, spans)) return literal(stretch.rawOf(whole(stretch)));
  const first = await attempt(deps, stretch, spans, onToken, urgent);
  if ('tooLong' in first) return translateHalves(deps, stretch, spans, first.tooLong, urgent);
  const numbers = numbersBetween(stretch.text, spans);
  if (first.lost.length === 0 && (!first.invented || numbers.length === 0)) return first.translation;

  let last = first;
  const lost = (number: NumberSpan): boolean => first.lost.some(({ start }) => start === number.start);
  const retried = numbers.filter((number) => first.invented || lost(number));
  if (retried.length > 0) {
    const both = [...spans, ...retried].sort((a, b) => a.start - b.start);
    const settings = { ...deps.settings, beam: Math.max(deps.settings.beam, RETRY_BEAM) };
    const second = await attempt({ ...deps, settings }, stretch, both, null, true);
    if (!('tooLong' in second)) {
      const better = second.lost.length === 0 && !(second.invented && first.lost.length === 0);
      if (better) return charged(second.translation, first.translation);
      // What was only invented is no loss.
      if (first.lost.length === 0) return charged(first.translation, second.translation);
      last = { ...second, translation: charged(second.translation, first.translation) };
    }
  }
  return charged(await translateAround(deps, stretch, last.lost), last.translation);
}

function whole({ text }: Stretch): Range {
  return { start: 0, end: text.length };
}

/** The translation, at the cost of a failed one too. */
function charged(translation: Translation, failed: Translation): Translation {
  return { ...translation, cost: addCosts(translation.cost, failed.cost) };
}

function numbersBetween(text: string, spans: readonly Range[]): NumberSpan[] {
  return numbersIn(text).filter(({ start, end }) => !spans.some((span) => span.start < end && start < span.end));
}

async function attempt(
  { lanes, tokenizer, model, settings, onTokenized, now }: FaithfulDependencies,
  stretch: Stretch,
  spans: readonly Range[],
  onToken: SpokenToken | null,
  urgent: boolean,
): Promise<Attempt | { readonly tooLong: number }> {
  const template = makeTemplate(stretch.text, spans, stretch.rawOf);
  const startedAtMs = now();
  const { ids } = await tokenizer.encode(template.text);
  onTokenized(now() - startedAtMs);
  if (ids.length >= model.contextTokens) return { tooLong: (model.contextTokens - 1) / ids.length };
  const sequence = new Int32Array(ids.length + 1);
  sequence.set(ids);
  sequence[ids.length] = model.eosId;
  // The decoder's cache promises rows for positions up to the context and no more.
  const maxNewTokens = Math.min(settings.maxNewTokens ?? 2 * ids.length + 16, model.contextTokens);
  const listener = onToken === null ? null : spoken(template, stretch, tokenizer, onToken);
  const result = await lanes.translate(sequence, { maxNewTokens, beam: settings.beam, urgent, onToken: listener });
  const said = result.hypotheses.map((hypothesis) => {
    return { hypothesis, ...restore(tokenizer.decode(hypothesis.ids).trim(), template, stretch, spans) };
  });
  const kept = said.filter(({ lost, invented }) => lost.length === 0 && !invented);
  const best = kept[0] ?? said.find(({ lost }) => lost.length === 0) ?? said[0];
  if (best === undefined) throw new Error('the engine answered a sentence without a hypothesis');
  const chosen = kept.length > 0 ? kept : [best];
  const rest = result.hypotheses.filter((hypothesis) => hypothesis !== best.hypothesis);
  const lane = { sourceIds: ids, result: { ...result, hypotheses: [best.hypothesis, ...rest] } };
  return {
    translation: { candidates: distinct(chosen), lanes: [lane], cost: costOf(result) },
    lost: best.lost,
    invented: best.invented,
  };
}

function distinct(said: readonly { text: string; hypothesis: TranslationHypothesis }[]): Candidate[] {
  const candidates = new Map<string, Candidate>();
  for (const { text, hypothesis } of said) {
    if (!candidates.has(text)) candidates.set(text, { text, score: hypothesis.score });
  }
  return [...candidates.values()];
}

/** Puts back what stand-ins stand for, sets numbers right, and tells which spans and numbers of the stretch were lost. */
function restore(
  said: string,
  { standIns }: Template,
  stretch: Stretch,
  spans: readonly Range[],
): { text: string; lost: Range[]; invented: boolean } {
  // Nothing said is nothing kept: the source stands.
  if (said === '') return { text: stretch.rawOf(whole(stretch)), lost: [], invented: false };
  const { places, missing } = findStandIns(said, standIns);
  const lost = missing.map((index) => spans[index] as Range);
  const numbers = numbersBetween(stretch.text, spans);
  const words = between(stretch.text, spans);
  // Numbers are looked for between the stand-ins, whose names have digits.
  const bare = blankOut(said, places);
  const checked = checkNumbers(words, numbers, bare);
  lost.push(...checked.missing.map((index) => numbers[index] as Range));
  return {
    text: fillIn(checked.text, places, standIns, stretch),
    lost: lost.sort((a, b) => a.start - b.start),
    invented: checked.foreign > 0,
  };
}

function between(text: string, spans: readonly Range[]): string {
  let from = 0;
  const parts: string[] = [];
  for (const { start, end } of spans) {
    parts.push(text.slice(from, start));
    from = end;
  }
  return [...parts, text.slice(from)].join(' ');
}

/** A character of the private use area for each stand-in: the model never says one, and numbers stay apart. */
const BLANK_FIRST = 0xe000;

function blankOut(said: string, places: readonly (Range & { index: number })[]): string {
  let from = 0;
  let text = '';
  for (const { start, end, index } of places) {
    text += said.slice(from, start) + String.fromCharCode(BLANK_FIRST + index);
    from = end;
  }
  return text + said.slice(from);
}

function fillIn(
  text: string,
  places: readonly { index: number }[],
  standIns: readonly StandIn[],
  { encode }: Stretch,
): string {
  let rest = text;
  let filled = '';
  for (const { index } of places) {
    const at = rest.indexOf(String.fromCharCode(BLANK_FIRST + index));
    filled += encode(rest.slice(0, at)) + (standIns[index] as StandIn).raw;
    rest = rest.slice(at + 1);
  }
  return filled + encode(rest);
}

/** Tokens as they come, with the text they make: stand-ins filled in, what may still become one held back. */
function spoken(template: Template, stretch: Stretch, tokenizer: Tokenizer, onToken: SpokenToken) {
  const ids: number[] = [];
  return (id: number, logprob: number, depth: number): void => {
    ids.push(id);
    // Half a character at the end is no text yet.
    const said = tokenizer
      .decode(ids)
      .replace(/\ufffd+$/, '')
      .trimStart();
    const settled = said.slice(0, said.length - unfinishedName(said, template.standIns));
    const { places } = findStandIns(settled, template.standIns);
    onToken(id, logprob, depth, fillIn(blankOut(settled, places), places, template.standIns, stretch));
  };
}

/** How many units at the end may still become a stand-in. */
function unfinishedName(said: string, standIns: readonly StandIn[]): number {
  const longest = standIns.reduce((most, { name }) => Math.max(most, name.length), 0);
  for (let units = Math.min(longest - 1, said.length); units > 0; units--) {
    const end = said.slice(-units);
    if (standIns.some(({ name }) => name.length > units && name.startsWith(end))) return units;
  }
  return 0;
}

/** In two, at the last clause that the model's context holds; the second half may be too long again. */
async function translateHalves(
  deps: FaithfulDependencies,
  stretch: Stretch,
  spans: readonly Range[],
  share: number,
  urgent: boolean,
): Promise<Translation> {
  const { text } = stretch;
  const fitting = Math.max(1, Math.floor(text.length * share * 0.9));
  let cut = Math.min(cutPlace(text.slice(0, fitting)), text.length - 1);
  // A text of one character can't be too long, nor can a span be cut.
  const span = spans.find(({ start, end }) => start < cut && cut < end);
  if (span !== undefined) cut = span.start > 0 ? span.start : span.end;
  const halves = [
    { start: 0, end: cut },
    { start: cut, end: text.length },
  ];
  return concatenate(await Promise.all(halves.map((half) => translatePiece(deps, stretch, half, urgent))));
}

/** Piece by piece around what was lost, which stays as it is. */
async function translateAround(
  deps: FaithfulDependencies,
  stretch: Stretch,
  lost: readonly Range[],
): Promise<Translation> {
  const parts: (Translation | Promise<Translation>)[] = [];
  let from = 0;
  for (const span of lost) {
    parts.push(translatePiece(deps, stretch, { start: from, end: span.start }, true), literal(stretch.rawOf(span)));
    from = span.end;
  }
  parts.push(translatePiece(deps, stretch, { start: from, end: stretch.text.length }, true));
  return concatenate(await Promise.all(parts));
}

/** A part of a stretch by itself, without the signs and white space around its words. */
export async function translatePiece(
  deps: FaithfulDependencies,
  stretch: Stretch,
  piece: Range,
  urgent: boolean,
): Promise<Translation> {
  const text = stretch.text.slice(piece.start, piece.end);
  const start = piece.start + (/^[\s,;:.!?)\]}"'”’–—-]*/.exec(text)?.[0].length ?? 0);
  const end = Math.max(start, piece.start + text.trimEnd().length);
  const inner = partOf(stretch, stretch.text.slice(start, end), start);
  const translation = start === end ? literal('') : await translateStretch(deps, inner, null, urgent);
  const goesOn = start > 0 && GOES_ON.test(inner.text);
  return concatenate([
    literal(stretch.rawOf({ start: piece.start, end: start })),
    goesOn ? uncapitalized(translation) : translation,
    literal(stretch.rawOf({ start: end, end: piece.end })),
  ]);
}

/** A piece that begins with one of these goes on where another ended; the model takes it for a sentence and begins it with a capital. */
const GOES_ON =
  /^(?:and|or|but|for|to|in|on|at|of|with|by|from|into|the|a|an|is|are|was|were|will|has|have|had|that|which|who|you|he|she|it|they|we|this|as|if|when|because|not|per|more|than)\b/;

function uncapitalized(translation: Translation): Translation {
  const candidates = translation.candidates.map(({ text, score }) => {
    return { text: /^\p{Lu}\p{Ll}/u.test(text) ? text.charAt(0).toLowerCase() + text.slice(1) : text, score };
  });
  return { ...translation, candidates };
}
