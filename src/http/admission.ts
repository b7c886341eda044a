/**
 * The door: what the server refuses before it costs anything, and what a request holds while it is inside. Counts are taken on
 * the main thread; the engine has limits of its own for lanes and tokens.
 */
import type { FastifyRequest } from 'fastify';
import type { Config } from '../config.js';
import type { Engine } from '../engine/engine.js';
import { ServerError } from '../errors.js';

export type Release = () => void;

export class Admission {
  #requests = 0;
  #bodyBytes = 0;
  #draining = false;
  /** Of each request in work, when it leaves. */
  readonly #present = new Set<Promise<void>>();
  readonly #waitingForIdle: (() => void)[] = [];

  constructor(
    private readonly limits: Pick<Config, 'requestsMax' | 'bodyBytesMax' | 'bodiesBytesMax'>,
    private readonly engine: Pick<Engine, 'info'>,
  ) {}

  get requestsInWork(): number {
    return this.#requests;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Refuses requests from now on. */
  drain(): void {
    this.#draining = true;
  }

  /** Resolves when no request is in work; a request counts until its reply is written or its client gone. */
  whenIdle(): Promise<void> {
    return new Promise((resolve) => {
      this.#waitingForIdle.push(resolve);
      this.#announceIdle();
    });
  }

  /** Resolves when the requests that are in work now have left, whatever came after them. */
  async whenPresentLeft(): Promise<void> {
    await Promise.all(this.#present);
  }

  /** @throws ServerError NOT_READY or DRAINING while requests could not be served. */
  assertReady(): void {
    const { state, reason } = this.engine.info();
    if (this.#draining || state === 'draining' || state === 'stopped') {
      throw new ServerError('DRAINING', 'the server is shutting down: send the request to another replica');
    }
    if (state !== 'ready') {
      throw new ServerError('NOT_READY', `the engine is ${state}${reason ? ` (${reason})` : ''}: retry shortly`);
    }
  }

  /**
   * For the hook that runs before the body is read: a server that can't serve must not receive megabytes first.
   * @throws ServerError NOT_READY, DRAINING, PAYLOAD_TOO_LARGE or QUEUE_FULL
   */
  admitBody({ headers, exit }: Pick<FastifyRequest, 'headers' | 'exit'>): void {
    this.assertReady();
    const declared = headers['content-length'];
    const bytes = declared === undefined ? null : Number(declared);
    if (bytes !== 0) exit.hold(this.takeBody(bytes));
  }

  /**
   * Takes the bytes of a body that is about to be received; without a declared length, the most it could be. Without this
   * limit every open connection could make the server hold a body of the largest size.
   * @throws ServerError PAYLOAD_TOO_LARGE or QUEUE_FULL
   */
  takeBody(declaredBytes: number | null): Release {
    const { bodyBytesMax, bodiesBytesMax } = this.limits;
    const bytes = declaredBytes ?? bodyBytesMax;
    if (bytes > bodyBytesMax) throw bodyTooLarge(bodyBytesMax);
    if (this.#bodyBytes + bytes > bodiesBytesMax) {
      throw new ServerError('QUEUE_FULL', `bodies of ${this.#bodyBytes} bytes are in work: retry (--bodies-bytes-max)`);
    }
    this.#bodyBytes += bytes;
    return () => {
      this.#bodyBytes -= bytes;
    };
  }

  /** @throws ServerError QUEUE_FULL when `requestsMax` requests are in work. */
  takeRequest(): Release {
    if (this.#requests >= this.limits.requestsMax) {
      throw new ServerError('QUEUE_FULL', `${this.#requests} requests are in work: retry (--requests-max)`);
    }
    this.#requests++;
    let leave = (): void => {};
    const left = new Promise<void>((resolve) => {
      leave = resolve;
    });
    this.#present.add(left);
    return () => {
      this.#requests--;
      this.#present.delete(left);
      leave();
      this.#announceIdle();
    };
  }

  #announceIdle(): void {
    if (this.#requests > 0) return;
    for (const resolve of this.#waitingForIdle.splice(0)) resolve();
  }
}

export function bodyTooLarge(bodyBytesMax: number): ServerError {
  return new ServerError(
    'PAYLOAD_TOO_LARGE',
    `the body exceeds ${bodyBytesMax} bytes: send fewer or shorter texts per request (--body-bytes-max)`,
  );
}
