/**
 * Who may use the server, and how much. Keys can be replaced while it runs; what a key has used is kept by its name, so that a reload
 * neither resets a rate nor loses a request that is counted.
 */
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { Release } from './admission.js';
import { type ApiKey, findKey } from './api-keys.js';
import { TokenBucket } from './token-bucket.js';

export interface KeyRingClock {
  /** For rates, monotonic. */
  readonly monotonicMs: () => number;
  /** For expiry. */
  readonly unixMs: () => number;
}

interface Use {
  bucket: TokenBucket | null;
  running: number;
}

export class KeyRing {
  #keys: readonly ApiKey[];
  readonly #uses = new Map<string, Use>();

  /** @param keys none: everyone may do everything */
  constructor(
    keys: readonly ApiKey[],
    private readonly limits: Pick<Config, 'keyRequestsPerMinute' | 'keyConcurrentMax'>,
    private readonly clock: KeyRingClock,
  ) {
    this.#keys = keys;
  }

  /** Requests need a key. */
  get required(): boolean {
    return this.#keys.length > 0;
  }

  get names(): readonly string[] {
    return this.#keys.map(({ name }) => name);
  }

  /** From now on. Requests that are in stay in; a server with keys can't be opened this way. */
  replace(keys: readonly ApiKey[]): void {
    if (this.required !== keys.length > 0)
      throw new Error('keys can be changed while the server runs, not begun or ended');
    this.#keys = keys;
    for (const [name, { running }] of this.#uses)
      if (running === 0 && !this.names.includes(name)) this.#uses.delete(name);
  }

  /**
   * @param presented the key of the request, '' for none
   * @throws ServerError UNAUTHENTICATED or KEY_EXPIRED
   */
  authenticate(presented: string): ApiKey {
    const key = findKey(this.#keys, presented);
    const expired = (key?.expiresAtMs ?? Number.POSITIVE_INFINITY) <= this.clock.unixMs();
    if (key !== null && !expired) return key;
    if (key !== null) throw new ServerError('KEY_EXPIRED', `the API key '${key.name}' has expired: ask for a new one`);
    const what = presented === '' ? 'this server wants an API key' : 'the API key is not known here';
    throw new ServerError('UNAUTHENTICATED', `${what}: send it as Authorization: Bearer KEY`);
  }

  /**
   * Counts a request that costs compute.
   * @throws ServerError RATE_LIMITED
   */
  enter({ name, requestsPerMinute, concurrent }: ApiKey): Release {
    const { keyRequestsPerMinute, keyConcurrentMax } = this.limits;
    const use = this.#use(name);
    const most = concurrent ?? keyConcurrentMax;
    if (most > 0 && use.running >= most) {
      throw new ServerError(
        'RATE_LIMITED',
        `${use.running} requests of '${name}' are in work, its limit: wait for one to finish`,
      );
    }
    const waitMs = this.#wait(use, requestsPerMinute ?? keyRequestsPerMinute);
    if (waitMs > 0) {
      const seconds = Math.ceil(waitMs / 1000);
      const message = `'${name}' may send ${use.bucket?.perMinute} requests a minute: retry in ${seconds} s`;
      throw new ServerError('RATE_LIMITED', message, null, seconds);
    }
    use.running += 1;
    return () => {
      use.running -= 1;
    };
  }

  #use(name: string): Use {
    let use = this.#uses.get(name);
    if (use === undefined) {
      use = { bucket: null, running: 0 };
      this.#uses.set(name, use);
    }
    return use;
  }

  /** @param perMinute 0: no limit */
  #wait(use: Use, perMinute: number): number {
    if (perMinute === 0) return 0;
    const nowMs = this.clock.monotonicMs();
    // A reload may have brought another rate.
    if (use.bucket?.perMinute !== perMinute) use.bucket = new TokenBucket(perMinute, nowMs);
    return use.bucket.take(nowMs);
  }
}
