/**
 * What must come out of a translation as it went in: addresses, placeholders, markup, and characters that the model was not
 * trained on (other scripts, emoji, control characters). Numbers are not here: the model copies most of them, and writes them the
 * German way (`numbers.ts`).
 */
export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Stands for an inline element that is not translated; see `html.ts`. */
export const OBJECT = '\ufffc';

const PATTERNS: readonly string[] = [
  // https://example.com/a?b=c; what ends a sentence or closes a bracket around it is not part of it.
  String.raw`\b(?:https?|ftps?|file|mailto):(?:\/\/)?[^\s<>"'“”„]*[^\s<>"'“”„.,;:!?)\]}…]`,
  String.raw`\bwww\.[^\s<>"'“”„]*[^\s<>"'“”„.,;:!?)\]}…]`,
  String.raw`[\w.+-]+@[\w-]+(?:\.[\w-]+)+`,
  String.raw`\b(?:[a-zA-Z\d-]+\.)+(?:com|org|net|edu|gov|info|io|de|at|ch|eu|uk|html?|pdf|txt|json|xml|js|ts|py|exe|zip|csv)\b(?:\/[^\s<>"'.,;:!?)\]}]*)?`,
  // {{x}}, ${x}, {0:.2f}, %(n)d, %1$s, %.2f, %s, $VAR, %VAR%
  String.raw`\{\{[^{}\n]{0,100}\}\}|[$#]?\{[^{}\n]{0,100}\}`,
  String.raw`%\(\w{1,60}\)[-+0 #]?\d*(?:\.\d+)?[a-zA-Z]`,
  String.raw`(?<![\d%])%(?:\d+\$)?[-+0#]?\d*(?:\.\d+)?(?:ll|[hlz])?[sdiufFxXeEgGcp@](?![a-zA-Z])`,
  String.raw`\$[A-Za-z_]\w+|%[A-Z_][A-Z\d_]+%`,
  // <x/>, </b>, <!-- -->, &amp;
  String.raw`<\/?[a-zA-Z][^<>\n]{0,300}>|<!--.{0,300}?-->`,
  String.raw`&(?:[a-zA-Z]\w{1,30}|#\d{1,7}|#x[\da-fA-F]{1,6});`,
  // \`code\`, \n in source text, --flag, snake_case, __name__, :smile:, @handle, #tag
  '`[^`\\n]{1,100}`',
  String.raw`\\[nrtv0"'\\]`,
  String.raw`(?<![\w-])--?[a-zA-Z][\w-]*(?:=\S+)?(?!\S)`,
  String.raw`\b[a-zA-Z\d]*(?:_+[a-zA-Z\d]+)+_*|\b_+[a-zA-Z\d]\w*`,
  String.raw`(?<![\w:]):[a-z][a-z\d_+-]+:(?![\w:])`,
  String.raw`(?<![\w@#&])[@#][a-zA-Z]\w+`,
  // Colours of a terminal.
  String.raw`\x1b\[[\d;]*[A-Za-z]`,
  // /usr/bin/x, ~/x, C:\x
  String.raw`(?<![\w.\/<])(?:~|\.{1,2})?(?:\/[\w.+-]+){2,}\/?|~\/[\w.\/+-]+|\b[A-Za-z]:\\[\w.\\-]*`,
];

/** Letters of other scripts with their marks, symbols of pictures with what joins them, and everything invisible but white space. */
const FOREIGN = String.raw`(?:[[\p{L}\p{M}]--[\p{Script=Latin}\p{Script=Inherited}ªº]]|[\p{Extended_Pictographic}--[\d#*©®™]]|\p{Regional_Indicator}|[\d#*]\ufe0f?\u20e3|[[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Cn}]--[\t-\r\x85\xad]]|[\ufffc\ufffd\ufe0e\ufe0f\u20e3\u{1f3fb}-\u{1f3ff}\u2500-\u25ff])`;
const FOREIGN_RUN = String.raw`${FOREIGN}(?:[\p{M}\ufe0f]|${FOREIGN}|[ \u3000-\u303f\uff00-\uffef](?=${FOREIGN}))*`;

const WRITTEN = new RegExp(PATTERNS.join('|'), 'gu');
const UNKNOWN = new RegExp(FOREIGN_RUN, 'gv');
const LATIN_LETTER = /\p{Script=Latin}/u;

/** In order, apart from each other: spans that touch are one. Linear but for words of hundreds of characters: keep texts short. */
export function protectedSpans(text: string): Range[] {
  const spans: { start: number; end: number }[] = [];
  const found = [WRITTEN, UNKNOWN].flatMap((pattern) => [...text.matchAll(pattern)]);
  for (const { 0: match, index: start } of found.sort((a, b) => a.index - b.index)) {
    const end = start + match.length;
    const last = spans.at(-1);
    if (last !== undefined && last.end >= start) last.end = Math.max(last.end, end);
    else spans.push({ start, end });
  }
  return spans;
}

/** Whether anything but the spans is language that the model knows. */
export function hasWords(text: string, spans: readonly Range[]): boolean {
  let from = 0;
  for (const { start, end } of spans) {
    if (LATIN_LETTER.test(text.slice(from, start))) return true;
    from = end;
  }
  return LATIN_LETTER.test(text.slice(from));
}
