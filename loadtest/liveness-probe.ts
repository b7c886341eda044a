/** Asks for /health/live at fixed times, whether or not the last answer is there, and counts from the time it was due. */
import { Agent, get } from 'node:http';
import { monotonicMs } from '../src/clock.js';

export interface Liveness {
  /** From the intended start to the end of the answer. */
  readonly latenciesMs: readonly number[];
  readonly failures: number;
}

export class LivenessProbe {
  private readonly agent = new Agent({ keepAlive: true });
  private readonly latenciesMs: number[] = [];
  private readonly pending = new Set<Promise<void>>();
  private failures = 0;
  private timer: NodeJS.Timeout | null = null;

  constructor(
    private readonly url: string,
    private readonly everyMs: number,
  ) {}

  start(): void {
    const firstAtMs = monotonicMs();
    let asked = 0;
    const tick = () => {
      // When this process was late, all that are due are asked now, each with the time at which it should have been.
      for (; firstAtMs + asked * this.everyMs <= monotonicMs(); asked++) this.ask(firstAtMs + asked * this.everyMs);
      this.timer = setTimeout(tick, Math.max(0, firstAtMs + asked * this.everyMs - monotonicMs()));
    };
    tick();
  }

  /** May be called again, for the same answer. */
  async stop(): Promise<Liveness> {
    if (this.timer !== null) clearTimeout(this.timer);
    await Promise.all(this.pending);
    this.agent.destroy();
    return { latenciesMs: this.latenciesMs, failures: this.failures };
  }

  private ask(intendedAtMs: number): void {
    const answered = new Promise<void>((resolve) => {
      const fail = () => {
        this.failures += 1;
        resolve();
      };
      get(`${this.url}/health/live`, { agent: this.agent }, (reply) => {
        reply.resume();
        reply.on('error', fail);
        reply.on('end', () => {
          if (reply.statusCode !== 200) return fail();
          this.latenciesMs.push(monotonicMs() - intendedAtMs);
          resolve();
        });
      }).on('error', fail);
    });
    this.pending.add(answered);
    answered.then(() => this.pending.delete(answered));
  }
}
