/**
 * Where an HTML document has its blocks. The tokenizer of htmlparser2 tells where each tag, comment and entity lies; what is not
 * text between tags is never written anew but copied from the source, so tags, attributes, comments and scripts stay as they are
 * to the byte, in whatever state they were.
 *
 * Block tags (all but those of INLINE) part blocks. Elements that are not translated (script, code, translate="no", ...) part
 * blocks too, unless they are inline: then one character, OBJECT, stands for the element in its sentence, and the element comes
 * back where the translation puts it.
 */
import { Tokenizer } from 'htmlparser2';
import type { Block, DocumentPart, Mark } from './block.js';
import { OBJECT } from './spans.js';

const WRITE_UNITS = 16_384;

const INLINE = new Set(
  (
    'a abbr acronym b bdi bdo big cite data del dfn em font i img input ins kbd label mark meter output progress q rp rt ruby ' +
    's samp small span strike strong sub sup svg time tt u var wbr code math'
  ).split(' '),
);
const VOID = new Set('area base br col embed hr img input link meta param source track wbr'.split(' '));
/** Void elements that mean something where they stand; wbr is layout. */
const OBJECTS = new Set(['img', 'input']);
const UNTRANSLATED = new Set(
  'script style code pre kbd samp var textarea svg math noscript template iframe object xmp noembed noframes plaintext'.split(
    ' ',
  ),
);

/** What the tokenizer found, in order. */
type Token =
  | { readonly kind: 'text'; readonly start: number; readonly end: number; readonly text: string }
  | { readonly kind: 'comment'; readonly start: number; readonly end: number }
  | {
      readonly kind: 'open';
      readonly start: number;
      readonly end: number;
      readonly name: string;
      readonly selfClosing: boolean;
      /** translate="no" or class="notranslate" */
      readonly keep: boolean;
    }
  | { readonly kind: 'close'; readonly start: number; readonly end: number; readonly name: string };

/** The blocks of a document and what lies between them. Yields null where the caller may pause. */
export function* htmlParts(source: string): Generator<DocumentPart | null> {
  let builder = new BlockBuilder();
  let literalFrom = 0;
  const flush = function* (): Generator<DocumentPart> {
    const block = builder.finish();
    if (block !== null) {
      if (block.start > literalFrom) yield { kind: 'literal', start: literalFrom, end: block.start };
      yield { kind: 'block', ...block };
      literalFrom = block.end;
    }
    builder = new BlockBuilder();
  };
  let skipped: { name: string; depth: number; start: number; inline: boolean } | null = null;
  for (const token of tokens(source)) {
    if (token === null) {
      yield null;
      continue;
    }
    if (skipped !== null) {
      if (token.kind === 'open' && token.name === skipped.name && !token.selfClosing) skipped.depth++;
      if (token.kind === 'close' && token.name === skipped.name) skipped.depth--;
      if (skipped.depth > 0) continue;
      if (skipped.inline) builder.object(skipped.start, token.end);
      skipped = null;
      continue;
    }
    if (token.kind === 'text') builder.text(token.start, token.end, token.text);
    else if (token.kind === 'comment') builder.mark({ kind: 'single', name: '', ...placeOf(token) });
    else {
      const inline = INLINE.has(token.name);
      if (!inline) yield* flush();
      if (token.kind === 'close') {
        if (inline) builder.mark({ kind: 'close', name: token.name, ...placeOf(token) });
      } else if (VOID.has(token.name)) {
        if (OBJECTS.has(token.name)) builder.object(token.start, token.end);
        else if (inline) builder.mark({ kind: 'single', name: token.name, ...placeOf(token) });
      } else if (token.keep || UNTRANSLATED.has(token.name)) {
        if (token.selfClosing && inline) builder.object(token.start, token.end);
        else if (!token.selfClosing) skipped = { name: token.name, depth: 1, start: token.start, inline };
      } else if (inline) {
        const kind = token.selfClosing && token.name !== 'a' ? 'single' : 'open';
        builder.mark({ kind, name: token.name, ...placeOf(token) });
      }
    }
  }
  yield* flush();
  if (source.length > literalFrom) yield { kind: 'literal', start: literalFrom, end: source.length };

  function placeOf({ start, end }: { start: number; end: number }): Pick<Mark, 'offset' | 'raw'> {
    return { offset: start, raw: source.slice(start, end) };
  }
}

function* tokens(source: string): Generator<Token | null> {
  const queue: Token[] = [];
  const collector = new Collector(source, queue);
  const tokenizer = new Tokenizer({ xmlMode: false, decodeEntities: true }, collector);
  for (let from = 0; from < source.length; from += WRITE_UNITS) {
    tokenizer.write(source.slice(from, from + WRITE_UNITS));
    yield* queue.splice(0);
    yield null;
  }
  tokenizer.end();
  yield* queue.splice(0);
}

/** Callbacks of the tokenizer to tokens. Its ends are those of the content; the rest of each token is found in the source. */
class Collector {
  /** Where the next token begins: all of the source belongs to some token. */
  private at = 0;
  private name = '';
  private attribute = '';
  private value = '';
  private keep = false;

  constructor(
    private readonly source: string,
    private readonly queue: Token[],
  ) {}

  private place(end: number): { start: number; end: number } {
    const start = this.at;
    this.at = Math.max(start, end);
    return { start, end: this.at };
  }

  ontext(_start: number, end: number): void {
    const place = this.place(end);
    this.queue.push({ kind: 'text', ...place, text: this.source.slice(place.start, place.end) });
  }
  ontextentity(codepoint: number, end: number): void {
    this.queue.push({ kind: 'text', ...this.place(end), text: String.fromCodePoint(codepoint) });
  }
  onopentagname(start: number, end: number): void {
    this.name = this.source.slice(start, end).toLowerCase();
    this.keep = false;
  }
  onattribname(start: number, end: number): void {
    this.attribute = this.source.slice(start, end).toLowerCase();
    this.value = '';
  }
  onattribdata(start: number, end: number): void {
    this.value += this.source.slice(start, end);
  }
  onattribentity(codepoint: number): void {
    this.value += String.fromCodePoint(codepoint);
  }
  onattribend(): void {
    if (this.attribute === 'translate') this.keep ||= this.value.trim().toLowerCase() === 'no';
    if (this.attribute === 'class') this.keep ||= /(?:^|\s)notranslate(?:\s|$)/.test(this.value);
  }
  onopentagend(end: number): void {
    const { name, keep } = this;
    this.queue.push({ kind: 'open', ...this.place(end + 1), name, selfClosing: false, keep });
  }
  onselfclosingtag(end: number): void {
    const { name, keep } = this;
    this.queue.push({ kind: 'open', ...this.place(end + 1), name, selfClosing: true, keep });
  }
  onclosetag(start: number, end: number): void {
    const close = this.source.indexOf('>', end);
    const name = this.source.slice(start, end).toLowerCase();
    this.queue.push({ kind: 'close', ...this.place(close < 0 ? this.source.length : close + 1), name });
  }
  oncomment(_start: number, end: number): void {
    this.comment(end);
  }
  oncdata(_start: number, end: number): void {
    this.comment(end);
  }
  ondeclaration(_start: number, end: number): void {
    this.comment(end);
  }
  onprocessinginstruction(_start: number, end: number): void {
    this.comment(end);
  }
  onend(): void {
    if (this.at < this.source.length) this.queue.push({ kind: 'comment', ...this.place(this.source.length) });
  }
  private comment(end: number): void {
    const close = this.source.indexOf('>', end);
    this.queue.push({ kind: 'comment', ...this.place(close < 0 ? this.source.length : close + 1) });
  }
}

/** Collects a block: its text with entities decoded, its marks, and where each piece of text lies in the source. */
class BlockBuilder {
  private readonly pieces: { at: number; start: number; end: number; text: string }[] = [];
  private readonly marks: Mark[] = [];
  private units = 0;
  private start = -1;
  private end = -1;

  text(start: number, end: number, text: string): void {
    this.reach(start, end);
    this.pieces.push({ at: this.units, start, end, text });
    this.units += text.length;
  }

  object(start: number, end: number): void {
    this.text(start, end, OBJECT);
  }

  mark(mark: Omit<Mark, 'at'>): void {
    this.reach(mark.offset, mark.offset + mark.raw.length);
    this.marks.push({ ...mark, at: this.units });
  }

  private reach(start: number, end: number): void {
    if (this.start < 0) this.start = start;
    this.end = end;
  }

  /** null of a block without anything. */
  finish(): { start: number; end: number; block: Block } | null {
    if (this.start < 0) return null;
    const { pieces, marks, start, end, units } = this;
    const text = pieces.map((piece) => piece.text).join('');
    const inPiece = (at: number, side: 'before' | 'after'): number => {
      let low = 0;
      let high = pieces.length;
      // The last piece that begins at or before `at`; 'before' wants the one that ends there.
      while (low < high) {
        const middle = (low + high) >> 1;
        const begins = (pieces[middle] as { at: number }).at;
        if (side === 'after' ? begins <= at : begins < at) low = middle + 1;
        else high = middle;
      }
      const piece = pieces[low - 1];
      if (piece === undefined) return start;
      const inside = at - piece.at;
      if (inside >= piece.text.length) return piece.end;
      // An entity or an object is one piece, and nobody cuts inside it.
      return piece.start + Math.min(inside, piece.end - piece.start);
    };
    const offsetOf = (at: number, side: 'before' | 'after'): number => {
      if (side === 'after') return at >= units ? end : inPiece(at, 'after');
      return at <= 0 ? start : inPiece(at, 'before');
    };
    return { start, end, block: { text, marks, offsetOf, encode: encodeText } };
  }
}

function encodeText(text: string): string {
  return text.replace(/[&<>\u00a0]/g, (character) => {
    if (character === '&') return '&amp;';
    if (character === '<') return '&lt;';
    return character === '>' ? '&gt;' : '&nbsp;';
  });
}
