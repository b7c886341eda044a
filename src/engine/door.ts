/**
 * The engine's door: what is in, in sequences, tokens and predicted time, and what is refused because of it. What a job was charged when it
 * entered is given back when it leaves, and only then.
 */
import { ServerError } from '../errors.js';
import { Backlog, type Order } from './backlog.js';
import type { Foreseen } from './engine.js';
import type { Budget, EngineTelemetry } from './protocol.js';
import { DepthBook, grantedSteps } from './quality.js';

/** A token has fewer bytes of English than this: what is foreseen from bytes is less than it will be. */
const BYTES_PER_TOKEN = 5;

export interface DoorLimits {
  readonly queueLanesMax: number;
  readonly queueTokensMax: number;
  readonly queueWaitMsMax: number;
}

/** A job that is in. */
export interface Stay {
  /** So much of it is left, 0 to 1. */
  progress(left: number): void;
  /** @param rows that it took; null: it was not done. @param late it was given up at its deadline */
  leave(rows: number | null, late: boolean): void;
}

export class Door {
  private lanesCharged = 0;
  private tokensCharged = 0;
  private nextId = 1;
  private readonly backlog: Backlog;
  private readonly depths = new DepthBook();
  /** Requests that are in are not refused for their later parts. */
  private readonly admitted = new WeakSet<AbortSignal>();

  constructor(
    private readonly limits: DoorLimits,
    private readonly now: () => number,
  ) {
    this.backlog = new Backlog(limits.queueWaitMsMax);
  }

  /** Predicted engine time of all that is in. */
  get backlogMs(): number {
    return this.backlog.ms;
  }

  observe(telemetry: EngineTelemetry): void {
    this.backlog.observe(telemetry);
    this.depths.observe(telemetry);
  }

  /** Throws QUEUE_FULL when a request like this would be late. */
  refuseIfLate(foreseen: Foreseen): void {
    this.refuseWhenLate({ ...orderOf(foreseen), budget: null });
  }

  grantSteps(
    foreseen: Foreseen,
    budget: Budget,
    { targetMs, floor }: { readonly targetMs: number; readonly floor: number },
  ): number {
    const order = { ...orderOf(foreseen), budget };
    const { waitMs, doneMs } = this.backlog.expect(order);
    const pressure = { waitMs, aloneMs: doneMs - waitMs, targetMs };
    return grantedSteps(pressure, floor, budget.maxSteps, (cap) => this.depths.meanUnder(order.model, cap));
  }

  /**
   * @param lanes sequences that the order is charged for, beside its tokens
   * @param request of which the order is a part
   * @throws ServerError QUEUE_FULL
   */
  enter(order: Order, lanes: number, tokens: number, request: AbortSignal): Stay {
    this.refuseWhenFull(lanes, tokens);
    if (!this.admitted.has(request)) this.refuseWhenLate(order);
    this.admitted.add(request);
    const id = this.nextId++;
    this.backlog.enter(id, order, this.now());
    this.lanesCharged += lanes;
    this.tokensCharged += tokens;
    return {
      progress: (left) => this.backlog.progress(id, left),
      leave: (rows, late) => {
        this.backlog.leave(id, this.now(), rows, late);
        this.lanesCharged -= lanes;
        this.tokensCharged -= tokens;
      },
    };
  }

  private refuseWhenLate(order: Order): void {
    const refusal = this.backlog.refusal(order, this.now());
    if (refusal === null) return;
    const { predictedMs, allowedMs, retryAfterSeconds } = refusal;
    const message =
      `the request would take ${Math.round(predictedMs)} ms behind what is in, and has ${Math.max(0, Math.round(allowedMs))} ms ` +
      '(its deadline, or --queue-wait-ms-max): retry later, or on another replica';
    throw new ServerError('QUEUE_FULL', message, null, retryAfterSeconds);
  }

  /** A request larger than a whole limit is let in when nothing else is there: it would otherwise be refused for ever. */
  private refuseWhenFull(lanes: number, tokens: number): void {
    const { queueLanesMax, queueTokensMax } = this.limits;
    const full = (what: string, flag: string) =>
      new ServerError(
        'QUEUE_FULL',
        `${what} are waiting or running (${flag}); retry later`,
        null,
        this.backlog.drainSeconds,
      );
    if (this.lanesCharged > 0 && this.lanesCharged + lanes > queueLanesMax)
      throw full(`${this.lanesCharged} sequences`, `--queue-lanes-max ${queueLanesMax}`);
    if (this.tokensCharged > 0 && this.tokensCharged + tokens > queueTokensMax)
      throw full(`${this.tokensCharged} tokens`, `--queue-tokens-max ${queueTokensMax}`);
  }
}

function orderOf({ model, kind, tenant, deadlineAtMs, ...size }: Foreseen): Omit<Order, 'budget'> {
  return { model, kind, tokens: 'tokens' in size ? size.tokens : size.bytes / BYTES_PER_TOKEN, tenant, deadlineAtMs };
}
