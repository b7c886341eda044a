/**
 * Sessions of one model: streams whose cache stays between requests, so that a client can append. One request of a session runs at a
 * time; what has been idle too long gives its cache back.
 */
import { ServerError } from '../errors.js';
import type { StreamState } from '../scheduler/span-scheduler.js';

export interface SessionLimits {
  readonly sessionsMax: number;
  readonly idleMsMax: number;
}

interface Session {
  /** Null while a request of the session is in work. */
  state: StreamState | null;
  usedAtMs: number;
}

export class Sessions {
  private readonly byKey = new Map<string, Session>();

  /** @param release frees the cache that a session has left behind */
  constructor(
    private readonly limits: SessionLimits,
    private readonly release: (slot: number) => void,
    private readonly now: () => number,
  ) {}

  get open(): number {
    return this.byKey.size;
  }

  /** A request enters: where its stream goes on, null at the beginning. Throws ServerError SESSION_* or QUEUE_FULL. */
  enter(key: string, continues: boolean): StreamState | null {
    this.expire();
    if (!continues) {
      this.begin(key);
      return null;
    }
    const state = this.idle(key);
    this.byKey.set(key, { state: null, usedAtMs: this.now() });
    return state;
  }

  private begin(key: string): void {
    const open = this.byKey.get(key);
    if (open !== undefined) {
      const message = 'a session of this name is open: leave out session_begin to continue it, or end it first';
      throw new ServerError(open.state === null ? 'SESSION_BUSY' : 'SESSION_OPEN', message, 'session');
    }
    if (this.byKey.size >= this.limits.sessionsMax) {
      const message = `${this.byKey.size} sessions are open (--sessions-max): end one or retry later`;
      throw new ServerError('QUEUE_FULL', message, 'session');
    }
    this.byKey.set(key, { state: null, usedAtMs: this.now() });
  }

  /** Where the stream of a session that nobody runs goes on. */
  private idle(key: string): StreamState {
    const session = this.byKey.get(key);
    if (session === undefined) {
      const message =
        `no session of this name is open; one that is idle for ${this.limits.idleMsMax} ms, or whose request failed, is closed: ` +
        'begin it with session_begin and its text so far';
      throw new ServerError('SESSION_UNKNOWN', message, 'session');
    }
    if (session.state === null) {
      const message = 'another request of this session is in work: wait for its reply';
      throw new ServerError('SESSION_BUSY', message, 'session');
    }
    return session.state;
  }

  /** Its request is done, and the stream may go on from there. */
  leave(key: string, state: StreamState): void {
    const session = this.byKey.get(key);
    if (session === undefined) throw new Error(`session ${key} is left without having been entered`);
    session.state = state;
    session.usedAtMs = this.now();
  }

  /** Its client has no more to say. Throws ServerError SESSION_UNKNOWN or SESSION_BUSY. */
  end(key: string): void {
    this.expire();
    this.release(this.idle(key).slot);
    this.byKey.delete(key);
  }

  /** Its request, which has its cache, goes without leaving anything to continue. */
  forget(key: string): void {
    this.byKey.delete(key);
  }

  /** Closes those that were idle for too long; true when there were any. */
  expire(): boolean {
    const before = this.byKey.size;
    for (const [key, { state, usedAtMs }] of this.byKey) {
      if (state === null || this.now() - usedAtMs < this.limits.idleMsMax) continue;
      this.release(state.slot);
      this.byKey.delete(key);
    }
    return this.byKey.size < before;
  }

  /** When the next one will have been idle for too long; null: none is idle. */
  nextExpiryMs(): number | null {
    let next: number | null = null;
    for (const { state, usedAtMs } of this.byKey.values()) {
      const atMs = usedAtMs + this.limits.idleMsMax;
      if (state !== null && (next === null || atMs < next)) next = atMs;
    }
    return next;
  }
}
