/** The last minutes of one figure as a line; where there was nothing to measure, the line is broken. */
import { svg } from './dom.js';

const WIDTH = 240;
const HEIGHT = 48;

/** @param values oldest first, NaN where there was none. @param size of the whole line, so that all lines cover the same time */
export function drawSparkline(figure: SVGSVGElement, values: readonly number[], size: number): void {
  figure.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  const known = values.filter(Number.isFinite);
  const high = Math.max(...known, 1e-9) * 1.1;
  const x = (i: number): number => WIDTH - ((values.length - 1 - i) / Math.max(1, size - 1)) * WIDTH;
  const y = (value: number): number => HEIGHT - 2 - (value / high) * (HEIGHT - 6);
  const runs: [number, number][][] = [];
  values.forEach((value, i) => {
    if (!Number.isFinite(value)) return;
    const open = i > 0 && Number.isFinite(values[i - 1]);
    if (open) runs.at(-1)?.push([x(i), y(value)]);
    else runs.push([[x(i), y(value)]]);
  });
  const path = (points: readonly (readonly [number, number])[]): string =>
    points.map(([px, py], i) => `${i === 0 ? 'M' : 'L'}${px.toFixed(1)} ${py.toFixed(1)}`).join('');
  figure.replaceChildren(
    svg('line', { class: 'axis', x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    ...runs.flatMap((run) => {
      const [first, last] = [run[0], run.at(-1)];
      if (first === undefined || last === undefined) return [];
      const area = `${path(run)}L${last[0].toFixed(1)} ${HEIGHT}L${first[0].toFixed(1)} ${HEIGHT}Z`;
      return [svg('path', { class: 'spark-area', d: area }), svg('path', { class: 'spark', d: path(run) })];
    }),
  );
}
