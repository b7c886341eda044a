/** Requests to the server that served this page. Paths are relative, so that it works below any prefix of a proxy. */
import { askForKey, currentKey, forgetKey } from './key.js';

/** A refusal of the server, in its own words. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** What `error.code` is where there was no answer at all. */
export const NO_ANSWER = 'NO_ANSWER';

export function urlOf(path: string): string {
  return new URL(path, document.baseURI.replace(/#.*$/, '')).href;
}

/**
 * Asks, and asks once more with a key when the server wants one.
 * @throws ApiError, or the AbortError of `signal`
 */
export async function ask(path: string, body: object | null, signal?: AbortSignal): Promise<Response> {
  for (let attempt = 0; ; attempt++) {
    const reply = await send(path, body, signal);
    if (reply.ok) return reply;
    const error = await refusal(reply);
    const wantsKey = reply.status === 401 || (reply.status === 403 && currentKey() !== null);
    if (!wantsKey || attempt > 0) throw error;
    forgetKey();
    if ((await askForKey(error.message)) === null) throw error;
  }
}

export async function askJson<T>(path: string, body: object | null, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, body, signal)).json()) as T;
}

/** Whether an error means that we ourselves gave the request up. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function send(path: string, body: object | null, signal: AbortSignal | undefined): Promise<Response> {
  const key = currentKey();
  const headers: Record<string, string> = {};
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== null) headers['content-type'] = 'application/json';
  try {
    return await fetch(urlOf(path), {
      method: body === null ? 'GET' : 'POST',
      headers,
      ...(body === null ? {} : { body: JSON.stringify(body) }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(0, NO_ANSWER, 'The server does not answer. Is it still running?');
  }
}

async function refusal(reply: Response): Promise<ApiError> {
  const body = (await reply.json().catch(() => null)) as { error?: { code?: unknown; message?: unknown } } | null;
  const { code, message } = body?.error ?? {};
  const fallback = `The server answered ${reply.status} ${reply.statusText}`.trim();
  return new ApiError(reply.status, String(code ?? reply.status), typeof message === 'string' ? message : fallback);
}
