/** What plots as SVG text have in common: the frame, the axes and the legend. Pure. */

export const WIDTH = 560;
export const HEIGHT = 320;
export const MARGIN = { left: 64, right: 16, top: 36, bottom: 48 } as const;
export const INNER_WIDTH = WIDTH - MARGIN.left - MARGIN.right;
export const INNER_HEIGHT = HEIGHT - MARGIN.top - MARGIN.bottom;
/** Told apart by those who don't see colours too: Okabe and Ito 2008. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'] as const;

interface Axis {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

export function axis(min: number, max: number, from: number, to: number, log: boolean): Axis {
  if (log) {
    const low = Math.floor(Math.log10(min));
    const high = Math.max(low + 1, Math.ceil(Math.log10(max)));
    const at = (value: number) => from + ((Math.log10(value) - low) / (high - low)) * (to - from);
    return { at, ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) };
  }
  const span = max - min || Math.abs(max) || 1;
  const step = niceStep(span / 5);
  const low = Math.floor(min / step) * step;
  const high = Math.max(low + step, Math.ceil(max / step) * step);
  const at = (value: number) => from + ((value - low) / (high - low)) * (to - from);
  return { at, ticks: Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => low + i * step) };
}

/** 1, 2 or 5 times a power of ten, at least `raw`. */
function niceStep(raw: number): number {
  const power = 10 ** Math.floor(Math.log10(raw));
  return (([1, 2, 5, 10] as const).find((factor) => factor * power >= raw * 0.999) ?? 10) * power;
}

export function yTicks({ at, ticks }: Axis): string {
  const grid = (y: number) =>
    `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${n(y)}" y2="${n(y)}" stroke="#ddd"/>`;
  return ticks.map((value) => grid(at(value)) + text(MARGIN.left - 6, at(value) + 4, short(value), 'end')).join('');
}

export function legend(names: readonly string[]): string {
  return names
    .map((name, i) => {
      const y = MARGIN.top + 8 + i * 16;
      return `<rect x="${MARGIN.left + 8}" y="${y - 8}" width="10" height="10" fill="${colour(i)}"/>${text(MARGIN.left + 24, y + 1, name, 'start')}`;
    })
    .join('');
}

export function frame(title: string, xLabel: string, yLabel: string, body: string): string {
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" ` +
    `role="img" aria-label="${escaped(title)}" font-family="system-ui, sans-serif" font-size="12" fill="#222">` +
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>` +
    `<text x="${WIDTH / 2}" y="20" text-anchor="middle" font-weight="bold">${escaped(title)}</text>` +
    body +
    text(MARGIN.left + INNER_WIDTH / 2, HEIGHT - 10, xLabel, 'middle') +
    `<text transform="translate(16 ${MARGIN.top + INNER_HEIGHT / 2}) rotate(-90)" text-anchor="middle">${escaped(yLabel)}</text>` +
    '</svg>'
  );
}

export function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end'): string {
  return `<text x="${n(x)}" y="${n(y)}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

export function colour(i: number): string {
  return COLOURS[i % COLOURS.length] as string;
}

export function n(value: number): string {
  return String(Math.round(value * 10) / 10);
}

/** Three significant digits, without an exponent for what people read. */
export function short(value: number): string {
  if (value === 0) return '0';
  const rounded = Number(value.toPrecision(3));
  return Math.abs(rounded) >= 1e6
    ? `${short(rounded / 1e6)} M`
    : rounded.toLocaleString('en-US', { maximumFractionDigits: 4 });
}

export function escaped(content: string): string {
  return content.replace(
    /[&<>"]/g,
    (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[character] ?? '',
  );
}
