/**
 * Text with each token on a background that tells its depth. The scale is viridis (Smith and van der Walt 2015): its lightness
 * rises evenly, so it is read the same with any colour vision and in grey. Without colours each token is followed by its depth
 * in subscript digits.
 */
import type { ModelDescription } from '../models/description.js';
import { UsageError } from './command.js';
import { printable } from './terminal.js';

export type ColourDepth = 'none' | '256' | 'truecolor';

export interface HeatmapInput {
  readonly text: string;
  /** [n + 1] UTF-16 offsets, as in `Encoded`. */
  readonly offsets: ArrayLike<number>;
  /** [n] */
  readonly depths: ArrayLike<number>;
  /** End of the scale. */
  readonly maxSteps: number;
}

const RESET = '\x1b[0m';

type Rgb = readonly [number, number, number];

/** Viridis at ninths, from 0 to 1. */
const VIRIDIS: readonly Rgb[] = [
  [68, 1, 84],
  [72, 40, 120],
  [62, 74, 137],
  [49, 104, 142],
  [38, 130, 142],
  [31, 158, 137],
  [53, 183, 121],
  [109, 205, 89],
  [180, 222, 44],
  [253, 231, 37],
];

/** How many colours the stream's terminal shows; `NO_COLOR` and `FORCE_COLOR` as at no-color.org and force-color.org. */
export function colourDepth(isTty: boolean, env: Readonly<Record<string, string | undefined>>): ColourDepth {
  if (env.NO_COLOR) return 'none';
  if (!env.FORCE_COLOR && (!isTty || env.TERM === 'dumb')) return 'none';
  return env.COLORTERM === 'truecolor' || env.COLORTERM === '24bit' ? 'truecolor' : '256';
}

/** @throws UsageError for a model whose tokens all have the same depth: a scale of one step shows nothing */
export function assertDepthsDiffer({ span }: Pick<ModelDescription, 'span'>): void {
  if (span === undefined) return;
  throw new UsageError('--heatmap shows depths, and this model has one depth for all tokens: leave it out');
}

export function renderHeatmap({ text, offsets, depths, maxSteps }: HeatmapInput, colours: ColourDepth): string {
  const parts: string[] = [];
  let depth = 0;
  for (let i = 0; i < depths.length; i++) {
    // Tokens that are parts of one character begin at the same offset; the character shows the deepest of them.
    depth = Math.max(depth, depths[i] ?? 0);
    const piece = text.slice(offsets[i] ?? 0, offsets[i + 1] ?? 0);
    if (piece === '') continue;
    parts.push(paint(printable(piece), depth, maxSteps, colours));
    depth = 0;
  }
  return `${parts.join('')}\n`;
}

/** One line that explains the scale. */
export function renderLegend(maxSteps: number, colours: ColourDepth): string {
  if (colours === 'none') return `depth of each token in subscript, 1 to ${maxSteps} steps\n`;
  const steps = Array.from({ length: maxSteps }, (_, i) => paint(` ${i + 1} `, i + 1, maxSteps, colours));
  return `steps ${steps.join('')}\n`;
}

/** A piece of text that comes by itself, such as a token just said. */
export function renderPiece(piece: string, depth: number, maxSteps: number, colours: ColourDepth): string {
  return paint(printable(piece), depth, maxSteps, colours);
}

function paint(piece: string, depth: number, maxSteps: number, colours: ColourDepth): string {
  if (colours === 'none') return withSubscript(piece, depth);
  const style = background(scale(maxSteps > 1 ? (depth - 1) / (maxSteps - 1) : 0), colours);
  // A background that is on at a line's end fills the rest of the line in many terminals.
  return piece
    .split('\n')
    .map((line) => (line === '' ? '' : `${style}${line}${RESET}`))
    .join('\n');
}

/** The digits go before a final line break, or they would stand on the next line. */
function withSubscript(piece: string, depth: number): string {
  const digits = [...String(depth)].map((digit) => String.fromCharCode(0x2080 + Number(digit))).join('');
  const body = piece.replace(/\n+$/, '');
  return `${body}${digits}${piece.slice(body.length)}`;
}

function scale(share: number): Rgb {
  const place = Math.min(1, Math.max(0, share)) * (VIRIDIS.length - 1);
  const low = VIRIDIS[Math.floor(place)] as Rgb;
  const high = VIRIDIS[Math.ceil(place)] as Rgb;
  const mix = (channel: 0 | 1 | 2): number => Math.round(low[channel] + (high[channel] - low[channel]) * (place % 1));
  return [mix(0), mix(1), mix(2)];
}

function background(rgb: Rgb, colours: Exclude<ColourDepth, 'none'>): string {
  const [r, g, b] = rgb;
  // Relative luminance decides between white and black letters.
  const foreground = 0.2126 * r + 0.7152 * g + 0.0722 * b > 110 ? 16 : 231;
  const colour = colours === 'truecolor' ? `2;${r};${g};${b}` : `5;${cubeIndex(rgb)}`;
  return `\x1b[38;5;${foreground}m\x1b[48;${colour}m`;
}

/** The nearest colour of the 6 x 6 x 6 cube that every 256-colour terminal has. */
function cubeIndex([r, g, b]: Rgb): number {
  const level = (value: number): number =>
    value < 48 ? 0 : value < 115 ? 1 : Math.min(5, Math.floor((value - 35) / 40));
  return 16 + 36 * level(r) + 6 * level(g) + level(b);
}
