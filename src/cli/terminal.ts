/** Text made for terminals: tables, numbers, and foreign text that must not drive the terminal. */

/** Rows as lines with aligned columns, two spaces between them. Columns named in `right` are flushed right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  }
  const lines = rows.map((row) =>
    row
      .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
  return lines.map((line) => `${line}\n`).join('');
}

/** Digits in groups of three: 7352833 -> 7,352,833. */
export function grouped(value: number): string {
  return value.toLocaleString('en-US');
}

/**
 * Text safe to print: control characters would otherwise move the cursor, change colours or retitle the window. Those of ASCII
 * become their pictures (ESC is ␛), the others U+FFFD; newlines and tabs stay.
 */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}]/gu, (character) => {
    if (character === '\n' || character === '\t') return character;
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? '␡' : '\ufffd';
  });
}

/** The beginning of a text on one line, at most `columns` characters. */
export function excerpt(text: string, columns: number): string {
  // Four units a column are more than any character on the way to `columns` needs; the rest of a long text is not looked at.
  const characters = [
    ...printable(text.slice(0, 4 * columns))
      .replace(/\s+/g, ' ')
      .trim(),
  ];
  const fits = characters.length <= columns && text.length <= 4 * columns;
  return fits ? characters.join('') : `${characters.slice(0, columns - 1).join('')}…`;
}
