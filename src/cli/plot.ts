/** A plot as SVG text: lines over a linear or logarithmic axis. What reports and `tune` show needs no library. Pure. */
import {
  axis,
  colour,
  escaped,
  frame,
  HEIGHT,
  INNER_HEIGHT,
  INNER_WIDTH,
  legend,
  MARGIN,
  n,
  short,
  text,
  WIDTH,
  yTicks,
} from './plot-frame.js';

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
