/** A plot as SVG text: bars in groups. Pure. */
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
} from '../src/cli/plot-frame.js';

export interface BarPlot {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly bars: readonly { readonly label: string; readonly values: readonly number[] }[];
  /** Names of the values of a bar. */
  readonly names: readonly string[];
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
