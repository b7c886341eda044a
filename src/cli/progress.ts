/**
 * Progress of long work on stderr: a bar that is redrawn on a terminal, a line for every tenth elsewhere (logs, CI). Work that
 * is done within a second shows nothing.
 */
import { monotonicMs } from '../clock.js';
import type { OutputStream } from './command.js';

const SILENT_MS = 1000;
const REDRAW_MS = 100;
const BAR_COLUMNS_MAX = 40;
const CLEAR_LINE = '\r\x1b[K';

export interface ProgressState {
  readonly label: string;
  readonly done: number;
  readonly total: number;
  readonly elapsedMs: number;
  /** What is counted; tokens unless told. */
  readonly unit?: string;
  /** Done before the time began to count: what an earlier run left. */
  readonly doneBefore?: number;
}

/** `scoring ━━━━━━────  61 %  3,120 tokens/s  0:12 left` within `columns`. */
export function progressBar(state: ProgressState, columns: number): string {
  const { label, elapsedMs, unit = 'tokens', doneBefore = 0 } = state;
  const share = shareOf(state);
  const done = state.done - doneBefore;
  const perSecond = elapsedMs > 0 ? (done / elapsedMs) * 1000 : 0;
  const leftMs = done > 0 ? (elapsedMs / done) * (state.total - state.done) : null;
  const rate = `${Math.round(perSecond).toLocaleString('en-US')} ${unit}/s`;
  const left = leftMs === null ? '' : `  ${clockTime(leftMs)} left`;
  const numbers = `${String(Math.floor(share * 100)).padStart(3)} %  ${rate}${left}`;
  const width = Math.min(BAR_COLUMNS_MAX, columns - label.length - numbers.length - 3);
  if (width < 5) return `${label} ${numbers}`.slice(0, Math.max(0, columns - 1));
  const filled = Math.round(share * width);
  return `${label} ${'━'.repeat(filled)}${'─'.repeat(width - filled)} ${numbers}`;
}

/** Minutes and seconds, hours when there are any. */
export function clockTime(ms: number): string {
  const seconds = Math.round(ms / 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export class Progress {
  readonly #startedAtMs: number;
  #drawnAtMs = Number.NEGATIVE_INFINITY;
  #tenthsShown = 0;
  #barShown = false;

  constructor(
    private readonly stream: OutputStream,
    private readonly label: string,
    private readonly total: number,
    private readonly now: () => number = monotonicMs,
    private readonly counted: Pick<ProgressState, 'unit' | 'doneBefore'> = {},
  ) {
    this.#startedAtMs = now();
  }

  update(done: number): void {
    const nowMs = this.now();
    const elapsedMs = nowMs - this.#startedAtMs;
    const state = { label: this.label, done, total: this.total, elapsedMs, ...this.counted };
    if (state.elapsedMs < SILENT_MS) return;
    if (this.stream.isTTY) {
      if (nowMs - this.#drawnAtMs < REDRAW_MS && done < this.total) return;
      this.#drawnAtMs = nowMs;
      this.#barShown = true;
      this.stream.write(CLEAR_LINE + progressBar(state, this.stream.columns ?? 80));
      return;
    }
    const tenths = Math.floor(shareOf(state) * 10);
    if (tenths <= this.#tenthsShown) return;
    this.#tenthsShown = tenths;
    this.stream.write(`${this.label} ${tenths * 10} %\n`);
  }

  /** Takes the bar away, so that what follows begins on a clean line. */
  end(): void {
    if (this.#barShown) this.stream.write(CLEAR_LINE);
    this.#barShown = false;
  }
}

function shareOf({ done, total }: ProgressState): number {
  return total > 0 ? Math.min(1, done / total) : 1;
}
