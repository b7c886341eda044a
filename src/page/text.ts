/** How texts and numbers are shown. */

/** Characters that would be invisible, or that would reorder what stands around them. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** A text in which every character can be seen: control characters as their pictures, others by their number. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (character) => {
    const code = character.codePointAt(0) as number;
    if (character === '\n') return '↵';
    if (character === '\t') return '⇥';
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `⟨${code.toString(16).toUpperCase().padStart(4, '0')}⟩`;
  });
}

/** What a token says when it is named in a sentence: its text in quotes. */
export function quoted(text: string): string {
  return `“${visible(text)}”`;
}

/** The same where the text stands alone: with its spaces to be seen. */
export function marked(text: string): string {
  return visible(text).replaceAll(' ', '␣');
}

export function fixed(value: number | null | undefined, digits: number): string {
  return value === null || value === undefined || !Number.isFinite(value) ? '–' : minus(value.toFixed(digits));
}

/** Three significant digits: for figures whose size is not known beforehand. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 9999.5) return Math.round(value).toLocaleString('en');
  return minus(size >= 99.95 ? value.toFixed(0) : size >= 9.995 ? value.toFixed(1) : value.toFixed(2));
}

export function percent(share: number): string {
  return Number.isFinite(share) ? `${Math.round(share * 100)} %` : '–';
}

export function milliseconds(ms: number): string {
  if (!Number.isFinite(ms)) return '–';
  return ms >= 999.5 ? `${short(ms / 1000)} s` : ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

export function count(value: number): string {
  return value.toLocaleString('en');
}

function minus(text: string): string {
  return text.replace('-', '−');
}
