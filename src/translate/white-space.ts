/** White space as `\s` has it, by a code unit: patterns are slow on a megabyte of it. */
export function isSpace(unit: number): boolean {
  if (unit <= 0x20) return unit === 0x20 || (unit >= 9 && unit <= 13);
  if (unit < 0x1680) return unit === 0xa0;
  return (
    unit === 0x3000 || unit === 0xfeff || (unit >= 0x2000 && /\s/.test(String.fromCharCode(unit))) || unit === 0x1680
  );
}
