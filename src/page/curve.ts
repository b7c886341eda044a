/**
 * Quality against cost: bits per byte over mean depth, a point for every setting tried on the text. The settings that were
 * measured in one sweep are joined by a line; the table below the plot says the same in words.
 */
import { el, svg } from './dom.js';
import { fixed } from './text.js';

export interface CurvePoint {
  readonly maxSteps: number;
  readonly threshold: number;
  readonly meanDepth: number;
  readonly bitsPerByte: number;
}

const WIDTH = 340;
const HEIGHT = 220;
const LEFT = 44;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 36;

export class Curve {
  readonly #points: CurvePoint[] = [];

  constructor(
    private readonly figure: SVGSVGElement,
    private readonly table: HTMLTableSectionElement,
  ) {
    figure.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    this.#draw();
  }

  clear(): void {
    this.#points.length = 0;
    this.#draw();
  }

  /** The newest point is the current one. A setting that was tried before is drawn once. */
  add(point: CurvePoint): void {
    const same = this.#points.findIndex(
      ({ maxSteps, threshold }) => maxSteps === point.maxSteps && threshold === point.threshold,
    );
    if (same >= 0) this.#points.splice(same, 1);
    this.#points.push(point);
    this.#draw();
  }

  #draw(): void {
    const points = this.#points;
    const xs = range(points.map(({ meanDepth }) => meanDepth));
    const ys = range(points.map(({ bitsPerByte }) => bitsPerByte));
    const x = (value: number): number => LEFT + ((value - xs.low) / (xs.high - xs.low)) * (WIDTH - LEFT - RIGHT);
    const y = (value: number): number => TOP + ((ys.high - value) / (ys.high - ys.low)) * (HEIGHT - TOP - BOTTOM);
    const empty = points.length === 0;
    const current = points.at(-1);
    this.figure.replaceChildren(
      ...(empty ? [] : ticks(ys)).flatMap((value) => [
        svg('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
        svg('text', { class: 'tick', x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, fixed(value, ys.digits)),
      ]),
      ...(empty ? [] : ticks(xs)).map((value) =>
        svg(
          'text',
          { class: 'tick', x: x(value), y: HEIGHT - BOTTOM + 16, 'text-anchor': 'middle' },
          fixed(value, xs.digits),
        ),
      ),
      svg('line', { class: 'axis', x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      svg(
        'text',
        { class: 'axis-name', x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, 'text-anchor': 'middle' },
        'mean depth, steps per token',
      ),
      ...sweeps(points).map((line) =>
        svg('polyline', {
          class: 'sweep',
          points: line.map((point) => `${x(point.meanDepth)},${y(point.bitsPerByte)}`).join(' '),
        }),
      ),
      ...points.map((point) =>
        svg(
          'circle',
          {
            class: point === current ? 'point current' : 'point',
            cx: x(point.meanDepth),
            cy: y(point.bitsPerByte),
            r: point === current ? 6 : 4,
          },
          svg('title', {}, describe(point)),
        ),
      ),
    );
    const said = empty ? 'nothing measured yet' : `${points.length} settings; now ${describe(current as CurvePoint)}`;
    this.figure.setAttribute('aria-label', `Bits per byte over mean depth: ${said}`);
    this.table.replaceChildren(
      ...points
        .toSorted((a, b) => a.meanDepth - b.meanDepth)
        .map(({ maxSteps, threshold, meanDepth, bitsPerByte }) =>
          el(
            'tr',
            {},
            el('td', {}, String(maxSteps)),
            el('td', {}, fixed(threshold, 2)),
            el('td', {}, fixed(meanDepth, 2)),
            el('td', {}, fixed(bitsPerByte, 3)),
          ),
        ),
    );
  }
}

function describe({ maxSteps, threshold, meanDepth, bitsPerByte }: CurvePoint): string {
  const setting = `max_steps ${maxSteps}, threshold ${fixed(threshold, 2)}`;
  return `${setting}: ${fixed(bitsPerByte, 3)} bits per byte at mean depth ${fixed(meanDepth, 2)}`;
}

/** Points of one threshold, by their steps. */
function sweeps(points: readonly CurvePoint[]): CurvePoint[][] {
  const byThreshold = new Map<number, CurvePoint[]>();
  for (const point of points) {
    const others = byThreshold.get(point.threshold) ?? [];
    byThreshold.set(point.threshold, [...others, point]);
  }
  return [...byThreshold.values()]
    .filter((line) => line.length > 1)
    .map((line) => line.toSorted((a, b) => a.maxSteps - b.maxSteps));
}

interface Range {
  readonly low: number;
  readonly high: number;
  readonly step: number;
  readonly digits: number;
}

/** Round limits around the values, with a step of 1, 2 or 5 times a power of ten. */
function range(values: readonly number[]): Range {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const wide = Math.max(most - least, 0.02, most * 0.02);
  const power = 10 ** Math.floor(Math.log10(wide / 3));
  const step = ([1, 2, 5, 10].find((factor) => wide / (factor * power) <= 4) ?? 10) * power;
  const low = Math.floor((least - step * 0.1) / step) * step;
  const high = Math.ceil((most + step * 0.1) / step) * step;
  return { low, high, step, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function ticks({ low, high, step }: Range): number[] {
  return Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => low + i * step);
}
