/**
 * A closed loop of HTTP requests by autocannon: every connection sends its next request when it has the answer to the last. The number
 * of requests is fixed and not the time, because autocannon cuts off what is in flight when its time is over, and then nobody knows
 * whether such a request was served.
 */
import autocannon from 'autocannon';
import { monotonicMs } from '../src/clock.js';

/** A text with what the tokenizer makes of it. */
export interface Piece {
  readonly text: string;
  readonly ids: Int32Array;
}

export interface ClosedLoad {
  readonly url: string;
  readonly model: string;
  readonly pieces: readonly Piece[];
  readonly connections: number;
  /** At least one a connection. */
  readonly requests: number;
}

export interface LoadResult {
  /** From the first request to the last answer. */
  readonly seconds: number;
  readonly answers: number;
  readonly ok: number;
  /** Connections that broke, and answers that never came. */
  readonly errors: number;
  /** `usage.tokens` of all answers, and the tokens of the texts as tokenised here. */
  readonly tokens: number;
  readonly tokensSent: number;
  readonly latenciesMs: readonly number[];
  /** Body of the first answer without a result: it says why. */
  readonly refusal: string | null;
}

const TIMEOUT_SECONDS = 120;

/** Request k of all is piece k; connection c sends c, c + connections, ... */
export function pieceOf(pieces: readonly Piece[], request: number): Piece {
  return pieces[request % pieces.length] as Piece;
}

/** The load as seen at its last answer. Autocannon itself ends up to a second later, and then blocks while it packs its histograms. */
export interface DrivenLoad {
  readonly result: LoadResult;
  /** Await before the next load. */
  readonly ended: Promise<unknown>;
}

export function driveClosed({ url, model, pieces, connections, requests }: ClosedLoad): Promise<DrivenLoad> {
  const latenciesMs: number[] = [];
  let [ok, errors, tokens, tokensSent] = [0, 0, 0, 0];
  for (let k = 0; k < requests; k++) tokensSent += pieceOf(pieces, k).ids.length;
  let connection = 0;
  let refusal: string | null = null;
  return new Promise((resolve, reject) => {
    const startedAtMs = monotonicMs();
    let end = (_failure: unknown): void => {};
    const ended = new Promise((settle) => {
      end = settle;
    });
    const finish = () => {
      const seconds = (monotonicMs() - startedAtMs) / 1000;
      const answers = latenciesMs.length;
      resolve({ result: { seconds, answers, ok, errors, tokens, tokensSent, latenciesMs, refusal }, ended });
    };
    const options: autocannon.Options = {
      url: `${url}/v1/score`,
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      connections,
      amount: requests,
      timeout: TIMEOUT_SECONDS,
      skipAggregateResult: true,
      // It looks this often whether it is done.
      sampleInt: 100,
      setupClient: (client) => {
        const own: autocannon.Request[] = [];
        for (let k = connection++; k < requests; k += connections) {
          own.push({ body: JSON.stringify({ model, input: pieceOf(pieces, k).text }) });
        }
        client.setRequests(own);
      },
      // Called for every answer, after its event `response`.
      verifyBody: (body) => {
        const { usage } = JSON.parse(String(body)) as { usage?: { tokens: number } };
        tokens += usage?.tokens ?? 0;
        if (usage === undefined) refusal ??= String(body);
        if (latenciesMs.length === requests) finish();
        return usage !== undefined;
      },
    };
    const run = autocannon(options, (failure: unknown) => {
      end(failure);
      if (failure) reject(failure);
      // Not yet resolved when some answers never came.
      else finish();
    });
    run.on('response', (_client, status, _bytes, latencyMs) => {
      latenciesMs.push(latencyMs);
      if (status === 200) ok += 1;
    });
    run.on('reqError', () => {
      errors += 1;
    });
  });
}
