/**
 * What work costs, learnt while it is done: rows a token of each model (tokens times the depth that they turn out to take), and
 * milliseconds of the engine a row. Both are means in which the past fades, by work and not by time, so an idle night forgets nothing.
 */
import type { Budget, EngineTelemetry, Job } from './protocol.js';

/** Tokens and rows after which what was learnt counts for half. */
const TOKENS_HALF = 5_000;
const ROWS_HALF = 20_000;
/** Of rows that only renew their keys, see RENEWED_ROW_COST. */
const RENEWED_COST = 1 / 6;

/** A ratio of two sums that fade together. */
export class FadingRatio {
  private over = 0;
  private under = 0;

  constructor(private readonly half: number) {}

  add(over: number, under: number): void {
    const keep = 0.5 ** (under / this.half);
    this.over = this.over * keep + over;
    this.under = this.under * keep + under;
  }

  /** null: nothing was learnt yet. */
  get value(): number | null {
    return this.under > 0 ? this.over / this.under : null;
  }
}

export interface Work {
  readonly kind: Job['kind'];
  readonly model: string;
  readonly tokens: number;
  /** null: the job has no steps to choose, as with a span model. */
  readonly budget: Budget | null;
}

export class CostBook {
  /** By model, kind and the steps allowed: a request of one step says nothing about others. */
  private readonly rowsPerToken = new Map<string, FadingRatio>();
  private readonly msPerRow = new Map<string, FadingRatio>();

  /** What the loop says it did: engine time and rows by model. */
  observe({ stages }: EngineTelemetry): void {
    for (const { model, computeSeconds, hostSeconds, activeRows, renewedRows } of stages) {
      const rows = activeRows + renewedRows * RENEWED_COST;
      if (rows > 0) ratioOf(this.msPerRow, model, ROWS_HALF).add((computeSeconds + hostSeconds) * 1000, rows);
    }
  }

  /** A job was answered: it took so many rows. */
  learn(work: Work, rows: number): void {
    if (rows > 0 && work.tokens > 0) ratioOf(this.rowsPerToken, keyOf(work), TOKENS_HALF).add(rows, work.tokens);
  }

  /** Predicted rows. What nobody asked for yet is guessed from the model's default, within the steps allowed. */
  rows(work: Work): number {
    const { tokens, budget } = work;
    const known = this.rowsPerToken.get(keyOf(work))?.value;
    if (known !== undefined && known !== null) return tokens * known;
    const [usual] = [...this.rowsPerToken].filter(([key]) => key.startsWith(`${work.model} ${work.kind} `));
    const guess = usual?.[1].value ?? (budget === null ? 1 : budget.maxSteps / 2);
    if (budget === null) return tokens * guess;
    return tokens * Math.min(budget.maxSteps, Math.max(budget.minSteps, guess));
  }

  /** Predicted milliseconds of the engine for so many rows; 0 while nothing is known. */
  ms(model: string, rows: number): number {
    return rows * (this.msPerRow.get(model)?.value ?? 0);
  }
}

function keyOf({ model, kind, budget }: Work): string {
  return `${model} ${kind} ${budget === null ? '' : `${budget.minSteps}-${budget.maxSteps}`}`;
}

/** Steps come from requests, but within the model's maximum: the keys are few. */
function ratioOf(ratios: Map<string, FadingRatio>, key: string, half: number): FadingRatio {
  const ratio = ratios.get(key) ?? new FadingRatio(half);
  ratios.set(key, ratio);
  return ratio;
}
