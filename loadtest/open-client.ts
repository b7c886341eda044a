/**
 * Sends requests at their intended times, whether or not the answers to earlier ones are there, and counts every latency from the
 * intended time: a server (or a client) that stalls is charged for all that should have been sent meanwhile. Every request gets a
 * socket of its own or one that lies idle, so none waits for another.
 */
import { Agent, type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from '../src/clock.js';

export interface Planned {
  readonly path: '/v1/score' | '/v1/translate';
  readonly body: string;
  /** Whose request it is: sent as API key, and a line of the report; null: nobody's. */
  readonly tenant: string | null;
}

/** How one request ended. */
export interface Answer {
  readonly planned: Planned;
  readonly intendedAtMs: number;
  /** When it was really written: what lies between is the client's own delay, and part of the latency. */
  readonly sentAtMs: number;
  readonly endedAtMs: number;
  /** Of streams: when the first event came. */
  readonly firstEventAtMs: number | null;
  /** OK, a code of the error table, or what went wrong on the way (`socket: ECONNRESET`). */
  readonly outcome: string;
  readonly status: number;
  /** What the error says. */
  readonly message: string | null;
  readonly reply: ReplySums | null;
  readonly retryAfterSeconds: number | null;
}

/** What the tests read of a reply. */
export interface ReplySums {
  readonly tokens: number;
  readonly sourceTokens: number;
  readonly targetTokens: number;
  readonly positionSteps: number;
  readonly positionStepsFixed: number;
  /** Tokens by steps; of a translation, those of the decoder. */
  readonly histogram: readonly number[];
}

/** No server of ours keeps a request for so long. */
const ANSWER_MS_MAX = 120_000;

export class OpenClient {
  private readonly agent: Agent;

  /** @param keepAlive false: a connection for each request */
  constructor(
    private readonly url: string,
    keepAlive = true,
  ) {
    this.agent = new Agent({ keepAlive, maxSockets: Number.POSITIVE_INFINITY });
  }

  /** @param onAnswer called as answers come, for progress. @returns one answer a request, in their order */
  async drive(
    plan: readonly { readonly atMs: number; readonly planned: Planned }[],
    stop: AbortSignal,
    onAnswer: (answer: Answer) => void = () => {},
  ): Promise<Answer[]> {
    const startedAtMs = monotonicMs();
    const pending: Promise<Answer>[] = [];
    for (const { atMs, planned } of plan) {
      const wait = startedAtMs + atMs - monotonicMs();
      if (wait > 1) await sleep(wait);
      if (stop.aborted) break;
      const answered = this.send(planned, startedAtMs + atMs);
      pending.push(answered);
      answered.then(onAnswer);
    }
    return Promise.all(pending);
  }

  /** A closed loop with `inFlight` requests: what the server does at most. */
  async saturate(next: () => Planned, inFlight: number, seconds: number, stop: AbortSignal): Promise<Answer[]> {
    const untilMs = monotonicMs() + seconds * 1000;
    const answers: Answer[] = [];
    const loop = async () => {
      while (monotonicMs() < untilMs && !stop.aborted) answers.push(await this.send(next(), monotonicMs()));
    };
    await Promise.all(Array.from({ length: inFlight }, loop));
    return answers;
  }

  send(planned: Planned, intendedAtMs: number): Promise<Answer> {
    const { path, body, tenant } = planned;
    const sentAtMs = monotonicMs();
    return new Promise((resolve) => {
      let firstEventAtMs: number | null = null;
      const end = (ended: Ended, status: number, retryAfter?: string) => {
        const retryAfterSeconds = retryAfter === undefined ? null : Number(retryAfter);
        const endedAtMs = monotonicMs();
        resolve({
          planned,
          intendedAtMs,
          sentAtMs,
          endedAtMs,
          firstEventAtMs,
          ...ended,
          status,
          retryAfterSeconds,
        });
      };
      const headers = {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        ...(tenant === null ? {} : { authorization: `Bearer ${tenant}` }),
      };
      const sent = request(`${this.url}${path}`, { method: 'POST', agent: this.agent, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => {
          firstEventAtMs ??= monotonicMs();
          chunks.push(chunk);
        });
        response.on('error', (error) => end(broken(error), 0));
        response.on('end', () => {
          const ended = readReply(response, Buffer.concat(chunks).toString('utf8'));
          end(ended, response.statusCode ?? 0, response.headers['retry-after']);
        });
      });
      sent.setTimeout(ANSWER_MS_MAX, () => sent.destroy(new Error('no answer')));
      sent.on('error', (error) => end(broken(error), 0));
      sent.end(body);
    });
  }

  close(): void {
    this.agent.destroy();
  }
}

type Ended = Pick<Answer, 'outcome' | 'message' | 'reply'>;

function broken(error: NodeJS.ErrnoException): Ended {
  return { outcome: `socket: ${error.code ?? error.message}`, message: error.message, reply: null };
}

interface RawReply {
  readonly error?: { readonly code: string; readonly message: string };
  readonly usage?: Readonly<Record<string, number>>;
  readonly results?: readonly { readonly ponder: Ponder }[];
}
type Ponder = { readonly histogram?: readonly number[]; readonly decoder?: { readonly histogram: readonly number[] } };

function readReply(response: IncomingMessage, text: string): Ended {
  const none = { message: null, reply: null };
  const isStream = response.headers['content-type']?.startsWith('text/event-stream') === true;
  let raw: RawReply;
  try {
    raw = isStream ? lastEvent(text) : (JSON.parse(text) as RawReply);
  } catch {
    return { ...none, outcome: `no JSON in a reply with status ${response.statusCode}` };
  }
  if (raw.error !== undefined) return { outcome: raw.error.code, message: raw.error.message, reply: null };
  if (raw.usage === undefined || response.statusCode !== 200) {
    return { ...none, outcome: `status ${response.statusCode} without an error or a result` };
  }
  const { usage } = raw;
  const histogram: number[] = [];
  for (const { ponder } of raw.results ?? []) {
    for (const [steps, count] of (ponder.histogram ?? ponder.decoder?.histogram ?? []).entries()) {
      histogram[steps] = (histogram[steps] ?? 0) + count;
    }
  }
  const reply = {
    tokens: usage.tokens ?? 0,
    sourceTokens: usage.source_tokens ?? 0,
    targetTokens: usage.target_tokens ?? 0,
    positionSteps: usage.position_steps ?? 0,
    positionStepsFixed: usage.position_steps_fixed ?? 0,
    histogram,
  };
  return { outcome: 'OK', message: null, reply };
}

/** The event before `[DONE]`, or the error; a stream that just ends is no answer. */
function lastEvent(text: string): RawReply {
  const events = text.split('\n').flatMap((line) => (line.startsWith('data: ') ? [line.slice(6)] : []));
  const done = events.at(-1) === '[DONE]';
  const last = JSON.parse(events.at(done ? -2 : -1) ?? '') as RawReply & { readonly type: string };
  if (last.type === 'error' || done) return last;
  throw new Error('the stream was cut off');
}
