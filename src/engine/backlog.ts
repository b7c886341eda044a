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

export interface Entry extends Order {
  readonly rows: number;
  readonly enteredAtMs: number;
  readonly predictedMs: number;
  /** Part of it that is not done yet. */
  left: number;
}

export interface Refusal {
  readonly predictedMs: number;
  readonly allowedMs: number;
  readonly retryAfterSeconds: number;
}

const LEARNING_RATE = 1 / 16;
const ERROR_MEAN_START = 1;
const ERROR_DEVIATION_START = 0.2;
const DEVIATIONS = 2;
/** What shorter ones take is mostly what no queue causes: they teach nothing of longer ones. */
const PREDICTED_MS_MIN = 100;
const ERROR_MAX = 4;
const RETRY_AFTER_SECONDS_MAX = 60;

export class Backlog {
  readonly costs = new CostBook();
  private readonly entries = new Map<number, Entry>();
  private errorMean = ERROR_MEAN_START;
  private errorDeviation = ERROR_DEVIATION_START;

  constructor(private readonly waitMsMax: number) {}

  observe(telemetry: EngineTelemetry): void {
    this.costs.observe(telemetry);
  }

  /** Milliseconds of the engine for all that is in. */
  get ms(): number {
    let sum = 0;
    for (const entry of this.entries.values()) sum += this.leftMs(entry);
    return sum;
  }

  private leftMs({ model, rows, left }: Entry): number {
    return this.costs.ms(model, rows * left);
  }

  /** Engine time until an order that enters now would begin, and until it would be done. */
  predict(order: Order): { readonly waitMs: number; readonly doneMs: number } {
    const lines = new Map<string, number>();
    // Texts of a model with spans go block by block in turns: each is a line of its own, and a new one begins at once.
    const own = order.kind === 'span' ? 'span' : classOf(order);
    const due = order.deadlineAtMs ?? Number.POSITIVE_INFINITY;
    for (const [id, entry] of this.entries) {
      const line = entry.kind === 'span' ? `span ${id}` : classOf(entry);
      // Of its own line only what is due before it; an order without a deadline goes last.
      if (line === own && (entry.deadlineAtMs ?? Number.POSITIVE_INFINITY) > due) continue;
      lines.set(line, (lines.get(line) ?? 0) + this.leftMs(entry));
    }
    const ownMs = lines.get(own) ?? 0;
    lines.delete(own);
    const withOthers = (ms: number) => [...lines.values()].reduce((sum, other) => sum + Math.min(other, ms), ms);
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
    this.entries.set(id, { ...order, rows: this.costs.rows(order), enteredAtMs: nowMs, predictedMs, left: 1 });
  }

  /** So much of it is left, 0 to 1. */
  progress(id: number, left: number): void {
    const entry = this.entries.get(id);
    if (entry !== undefined) entry.left = left;
  }

  /** @param rows that it took; null: it was not done, and says nothing about its cost */
  leave(id: number, nowMs: number, rows: number | null, late = false): void {
    const entry = this.entries.get(id);
    if (entry === undefined) return;
    this.entries.delete(id);
    if (rows !== null) this.costs.learn(entry, rows);
    if ((rows === null && !late) || entry.predictedMs < PREDICTED_MS_MIN) return;
    const error = Math.min(ERROR_MAX, Math.max(0, nowMs - entry.enteredAtMs) / entry.predictedMs);
    this.errorDeviation += LEARNING_RATE * (Math.abs(error - this.errorMean) - this.errorDeviation);
    this.errorMean += LEARNING_RATE * (error - this.errorMean);
  }

  /** Until what is in now is done. */
  get drainSeconds(): number {
    return retryAfter(this.ms);
  }
}

function classOf({ tenant, model }: Order): string {
  return `${model}\n${tenant}`;
}

function retryAfter(ms: number): number {
  return Math.min(RETRY_AFTER_SECONDS_MAX, Math.max(1, Math.ceil(ms / 1000)));
}
