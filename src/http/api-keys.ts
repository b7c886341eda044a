/**
 * API keys: a list of names with what each may do. The server keeps hashes only. Files look like this; the variable PONDER_API_KEYS holds
 * the same JSON:
 *
 *     [{ "name": "alice", "key": "at least sixteen characters" },
 *      { "name": "batch", "sha256": "64 hexadecimal digits", "expires": "2027-01-01T00:00:00Z",
 *        "requests_per_minute": 600, "concurrent": 8, "admin": true }]
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { Type } from 'typebox';
import { Value } from 'typebox/value';

export interface ApiKey {
  /** What logs and metrics call it; never the key. */
  readonly name: string;
  /** SHA-256 of the key: 32 bytes. */
  readonly hash: Buffer;
  /** Unix milliseconds; null: never. */
  readonly expiresAtMs: number | null;
  /** Null: as the options say. */
  readonly requestsPerMinute: number | null;
  readonly concurrent: number | null;
  /** May load and unload models. */
  readonly admin: boolean;
}

export const KEYS_MAX = 1000;
const KEY_CHARACTERS_MIN = 16;

const KeyFile = Type.Array(
  Type.Object(
    {
      name: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' }),
      key: Type.Optional(Type.String({ minLength: KEY_CHARACTERS_MIN, maxLength: 512, pattern: '^[!-~]+$' })),
      sha256: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
      expires: Type.Optional(Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\d(T.+)?$' })),
      requests_per_minute: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
      concurrent: Type.Optional(Type.Integer({ minimum: 1, maximum: 100_000 })),
      admin: Type.Optional(Type.Boolean()),
    },
    { additionalProperties: false },
  ),
  { minItems: 1, maxItems: KEYS_MAX },
);

/**
 * @param source what the text is called in errors: the file, or the variable
 * @throws Error of one line, which never quotes the text: it holds keys
 */
export function parseKeys(json: string, source: string): ApiKey[] {
  const entries = parsed(json, source);
  if (!Value.Check(KeyFile, entries)) {
    const [error] = Value.Errors(KeyFile, entries);
    const where = error?.instancePath || '/';
    // Of an unknown field the validator says no more than that its schema is false.
    const what = error?.keyword === 'boolean' ? 'is not a known field' : (error?.message ?? 'is invalid');
    throw new Error(`${source}: ${where} ${what}: a list of keys as docs/auth.md shows is needed`);
  }
  const names = new Set<string>();
  return entries.map(({ name, key, sha256, expires, requests_per_minute, concurrent, admin }) => {
    if (names.has(name)) throw new Error(`${source}: the name ${name} is given twice: names tell keys apart`);
    names.add(name);
    if ((key === undefined) === (sha256 === undefined))
      throw new Error(`${source}: ${name} needs key or sha256, not both`);
    const expiresAtMs = expires === undefined ? null : Date.parse(expires);
    if (Number.isNaN(expiresAtMs))
      throw new Error(`${source}: expires of ${name} is no date: write 2027-01-01T00:00:00Z`);
    return {
      name,
      hash: key === undefined ? Buffer.from(sha256 as string, 'hex') : hashOf(key),
      expiresAtMs,
      requestsPerMinute: requests_per_minute ?? null,
      concurrent: concurrent ?? null,
      admin: admin ?? false,
    };
  });
}

function parsed(json: string, source: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw new Error(`${source}: is not JSON: a list of keys as docs/auth.md shows is needed`);
  }
}

export function hashOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/**
 * The key that was presented, or null. Takes as long for a right key as for a wrong or missing one: it is hashed, and the hash compared with
 * every key's, in constant time each.
 */
export function findKey(
  keys: readonly ApiKey[],
  presented: string,
  equal: (a: Buffer, b: Buffer) => boolean = timingSafeEqual,
): ApiKey | null {
  const hash = hashOf(presented);
  let found: ApiKey | null = null;
  for (const key of keys) if (equal(hash, key.hash)) found = key;
  return found;
}
