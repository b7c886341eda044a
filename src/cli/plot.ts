/** Small plots as SVG text: lines over a linear or logarithmic axis, and bars. What reports and `tune` show needs no library. Pure. */

export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface LinePlot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  readonly yLog?: boolean;
  /** Where y begins; 0 unless told. */
  readonly yFrom?: number;
  /** What the ticks of x say, where their numbers would not be understood. */
  readonly xTicks?: readonly (readonly [x: number, text: string])[];
}

export interface BarPlot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly bars: readonly { readonly label: string; readonly values: readonly number[] }[];
  /** Names of the values of a bar. */
  readonly names: readonly string[];
}

const WIDTH = 560;
const HEIGHT = 320;
const MARGIN = { left: 64, right: 16, top: 36, bottom: 48 } as const;
const INNER_WIDTH = WIDTH - MARGIN.left - MARGIN.right;
const INNER_HEIGHT = HEIGHT - MARGIN.top - MARGIN.bottom;
/** Told apart by those who don't see colours too: Okabe and Ito 2008. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'] as const;

export function linePlot({ title, xLabel, yLabel, series, yLog = false, yFrom = 0, xTicks }: LinePlot): string {
  const points = series.flatMap((one) => one.points).filter(([, y]) => !yLog || y > 0);
  if (points.length === 0) return frame(title, xLabel, yLabel, text(WIDTH / 2, HEIGHT / 2, 'no data', 'middle'));
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const x = axis(Math.min(...xs), Math.max(...xs), MARGIN.left, MARGIN.left + INNER_WIDTH, false);
  const y = axis(yLog ? Math.min(...ys) : yFrom, Math.max(...ys), MARGIN.top + INNER_HEIGHT, MARGIN.top, yLog);
  const lines = series.map((one, i) => {
    const drawn = one.points.filter(([, value]) => !yLog || value > 0);
    const path = drawn.map(([px, py], k) => `${k === 0 ? 'M' : 'L'}${n(x.at(px))} ${n(y.at(py))}`).join('');
    const dots = drawn.map(
      ([px, py]) =>
        `<circle cx="${n(x.at(px))}" cy="${n(y.at(py))}" r="3" fill="${colour(i)}"><title>${escaped(`${one.name}: ${short(px)}, ${short(py)}`)}</title></circle>`,
    );
    return `<path d="${path}" fill="none" stroke="${colour(i)}" stroke-width="2"/>${dots.join('')}`;
  });
  const ticks = xTicks ?? x.ticks.map((value) => [value, short(value)] as const);
  const body =
    yTicks(y) +
    ticks.map(([value, label]) => text(x.at(value), HEIGHT - MARGIN.bottom + 16, label, 'middle')).join('') +
    lines.join('') +
    legend(series.map(({ name }) => name));
  return frame(title, xLabel, yLabel, body);
}

export function barPlot({ title, xLabel, yLabel, bars, names }: BarPlot): string {
  const most = Math.max(0, ...bars.flatMap(({ values }) => values));
  if (most === 0) return frame(title, xLabel, yLabel, text(WIDTH / 2, HEIGHT / 2, 'no data', 'middle'));
  const y = axis(0, most, MARGIN.top + INNER_HEIGHT, MARGIN.top, false);
  const slot = INNER_WIDTH / bars.length;
  const width = (slot * 0.8) / Math.max(1, names.length);
  const drawn = bars.map(({ label, values }, i) => {
    const left = MARGIN.left + i * slot + slot * 0.1;
    const boxes = values.map((value, k) => {
      const top = y.at(value);
      return `<rect x="${n(left + k * width)}" y="${n(top)}" width="${n(width)}" height="${n(MARGIN.top + INNER_HEIGHT - top)}" fill="${colour(k)}"><title>${escaped(`${names[k] ?? ''} ${label}: ${short(value)}`)}</title></rect>`;
    });
    return boxes.join('') + text(left + slot * 0.4, HEIGHT - MARGIN.bottom + 16, label, 'middle');
  });
  return frame(title, xLabel, yLabel, yTicks(y) + drawn.join('') + legend(names));
}

interface Axis {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

function axis(min: number, max: number, from: number, to: number, log: boolean): Axis {
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

function yTicks({ at, ticks }: Axis): string {
  const grid = (y: number) =>
    `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${n(y)}" y2="${n(y)}" stroke="#ddd"/>`;
  return ticks.map((value) => grid(at(value)) + text(MARGIN.left - 6, at(value) + 4, short(value), 'end')).join('');
}

function legend(names: readonly string[]): string {
  return names
    .map((name, i) => {
      const y = MARGIN.top + 8 + i * 16;
      return `<rect x="${MARGIN.left + 8}" y="${y - 8}" width="10" height="10" fill="${colour(i)}"/>${text(MARGIN.left + 24, y + 1, name, 'start')}`;
    })
    .join('');
}

function frame(title: string, xLabel: string, yLabel: string, body: string): string {
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

function text(x: number, y: number, content: string, anchor: 'start' | 'middle' | 'end'): string {
  return `<text x="${n(x)}" y="${n(y)}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

function colour(i: number): string {
  return COLOURS[i % COLOURS.length] as string;
}

function n(value: number): string {
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
