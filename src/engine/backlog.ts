/**
 * What the engine still has to do, in milliseconds of its time, and when a new request would be done: what is refused at the door is
 * what would be late. A class is one tenant's work for one model; classes take turns, so a class waits for what is due before it in its
 * own line and for as much of every other one.
 *
 *   wait      = (own line + as much of each other line) x error       must not exceed --queue-wait-ms-max
 *   predicted = (wait, with itself in its own line) x error           must not pass the deadline
 *
 * The error is learnt as TCP learns its timeout (Jacobson 1988): mean and deviation of measured over predicted.
 */

import { CostBook, type Work } from './cost-book.js';
import type { EngineTelemetry } from './protocol.js';

export interface Order extends Work {
  readonly tenant: string;
  readonly deadlineAtMs: number | null;
}

interface Entry extends Order {
  readonly line: string;
  readonly rows: number;
  readonly enteredAtMs: number;
  readonly predictedMs: number;
  /** Part of it that is not done yet. */
  left: number;
}

/** Entries, and the rows that are left of them. */
interface Sum {
  entries: number;
  rows: number;
}

/** What waits for the same turn. Its sums are kept, so that a new order does not cost more the more is in. */
interface Line extends Sum {
  readonly model: string;
  /** Those with a deadline, by the tenth of a second in which it lies. */
  readonly due: Map<number, Sum>;
}

export interface Refusal {
  readonly predictedMs: number;
  readonly allowedMs: number;
  readonly retryAfterSeconds: number;
}

const LEARNING_RATE = 1 / 16;
/**
 * What a prediction did is known only when its request leaves. A hundred that leave meanwhile tell of the same moment: they count for the time
 * since the one before, as a share of this many times what they took. Each for itself would have the door swing between open and shut.
 */
const MEMORY = 2;
const ERROR_MEAN_START = 1;
const ERROR_DEVIATION_START = 0.2;
const DEVIATIONS = 2;
/** What shorter ones take is mostly what no queue causes: they teach nothing of longer ones. */
const PREDICTED_MS_MIN = 100;
const ERROR_MAX = 4;
/** What was given up at its deadline would have taken longer, nobody knows how much: doubled, as TCP doubles a timeout that was too short. */
const LATE_FACTOR = 2;
const RETRY_AFTER_SECONDS_MAX = 60;

export class Backlog {
  readonly costs = new CostBook();
  private readonly entries = new Map<number, Entry>();
  private readonly lines = new Map<string, Line>();
  private errorMean = ERROR_MEAN_START;
  private errorDeviation = ERROR_DEVIATION_START;
  private learntAtMs = Number.NEGATIVE_INFINITY;

  constructor(private readonly waitMsMax: number) {}

  observe(telemetry: EngineTelemetry): void {
    this.costs.observe(telemetry);
  }

  /** Milliseconds of the engine for all that is in. */
  get ms(): number {
    let sum = 0;
    for (const line of this.lines.values()) sum += this.costs.ms(line.model, line.rows);
    return sum;
  }

  /** Engine time until an order that enters now would begin, and until it would be done. */
  predict(order: Order): { readonly waitMs: number; readonly doneMs: number } {
    const own = this.lines.get(lineOf(order, null));
    const ownMs = own === undefined ? 0 : this.costs.ms(order.model, rowsBefore(own, order.deadlineAtMs));
    const others: number[] = [];
    for (const line of this.lines.values()) if (line !== own) others.push(this.costs.ms(line.model, line.rows));
    const withOthers = (ms: number) => others.reduce((sum, other) => sum + Math.min(other, ms), ms);
    return {
      waitMs: withOthers(ownMs),
      doneMs: withOthers(ownMs + this.costs.ms(order.model, this.costs.rows(order))),
    };
  }

  /** The same with what predictions are wrong by at most, nearly always. */
  expect(order: Order): { readonly waitMs: number; readonly doneMs: number } {
    const error = this.errorMean + DEVIATIONS * this.errorDeviation;
    const { waitMs, doneMs } = this.predict(order);
    return { waitMs: waitMs * error, doneMs: doneMs * error };
  }

  /** Why an order should not enter now; null: it would begin and be done in time. */
  refusal(order: Order, nowMs: number): Refusal | null {
    // With nothing before it, no better time will come.
    if (this.entries.size === 0) return null;
    const { waitMs, doneMs } = this.expect(order);
    const refuse = (predictedMs: number, allowedMs: number): Refusal | null =>
      predictedMs <= allowedMs
        ? null
        : { predictedMs, allowedMs, retryAfterSeconds: retryAfter(predictedMs - allowedMs) };
    const late = order.deadlineAtMs === null ? null : refuse(doneMs, order.deadlineAtMs - nowMs);
    return late ?? refuse(waitMs, this.waitMsMax);
  }

  enter(id: number, order: Order, nowMs: number): void {
    const { doneMs: predictedMs } = this.predict(order);
    const rows = this.costs.rows(order);
    const name = lineOf(order, id);
    const entry = { ...order, line: name, rows, enteredAtMs: nowMs, predictedMs, left: 1 };
    if (!this.lines.has(name)) this.lines.set(name, { model: order.model, entries: 0, rows: 0, due: new Map() });
    this.entries.set(id, entry);
    this.add(entry, 1, rows);
  }

  /** To the sums of an entry's line; what is empty then goes, and with it whatever its sum was off by in the last bits. */
  private add({ line: name, deadlineAtMs }: Entry, entries: number, rows: number): void {
    const line = this.lines.get(name) as Line;
    line.rows += rows;
    line.entries += entries;
    if (line.entries === 0) this.lines.delete(name);
    if (deadlineAtMs === null) return;
    const tenth = tenthOf(deadlineAtMs);
    const due = line.due.get(tenth) ?? { entries: 0, rows: 0 };
    due.rows += rows;
    due.entries += entries;
    if (due.entries === 0) line.due.delete(tenth);
    else line.due.set(tenth, due);
  }

  /** So much of it is left, 0 to 1. */
  progress(id: number, left: number): void {
    const entry = this.entries.get(id);
    if (entry === undefined) return;
    this.add(entry, 0, entry.rows * (left - entry.left));
    entry.left = left;
  }

  /** @param rows that it took; null: it was not done, and says nothing about its cost */
  leave(id: number, nowMs: number, rows: number | null, late = false): void {
    const entry = this.entries.get(id);
    if (entry === undefined) return;
    this.entries.delete(id);
    this.add(entry, -1, -entry.rows * entry.left);
    if (rows !== null) this.costs.learn(entry, rows);
    if ((rows === null && !late) || entry.predictedMs < PREDICTED_MS_MIN) return;
    const tookMs = Math.max(0, nowMs - entry.enteredAtMs) * (late ? LATE_FACTOR : 1);
    const error = Math.min(ERROR_MAX, tookMs / entry.predictedMs);
    const rate = Math.min(LEARNING_RATE, Math.max(0, nowMs - this.learntAtMs) / (MEMORY * Math.max(1, tookMs)));
    this.learntAtMs = nowMs;
    this.errorDeviation += rate * (Math.abs(error - this.errorMean) - this.errorDeviation);
    this.errorMean += rate * (error - this.errorMean);
  }

  /** Until what is in now is done. */
  get drainSeconds(): number {
    return retryAfter(this.ms);
  }
}

/** Texts of a model with spans go block by block in turns: each is a line of its own, and a new one begins at once. */
function lineOf({ kind, tenant, model }: Order, id: number | null): string {
  return kind === 'span' ? `span ${id}` : `${model}\n${tenant}`;
}

/** Of its own line an order waits for what is due before it; one without a deadline goes last. */
function rowsBefore({ rows, due }: Line, deadlineAtMs: number | null): number {
  if (deadlineAtMs === null) return rows;
  const own = tenthOf(deadlineAtMs);
  let before = 0;
  for (const [tenth, sum] of due) if (tenth <= own) before += sum.rows;
  return before;
}

function tenthOf(ms: number): number {
  return Math.ceil(ms / 100);
}

function retryAfter(ms: number): number {
  return Math.min(RETRY_AFTER_SECONDS_MAX, Math.max(1, Math.ceil(ms / 1000)));
}
