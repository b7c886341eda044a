/** What a generating stage tells of its sequences: the prompt's scores, each token where the job streams, and the whole in the end. */
import type { GeneratedTokens, GenerateJob, SequenceResult, TokenScores } from './protocol.js';
import type { StageMessage } from './stage.js';

interface Whose {
  readonly jobId: number;
  readonly index: number;
}

interface Begun {
  prompt: TokenScores | null;
  firstTokenAtMs: number | null;
}

export class GenerateMessages {
  private readonly streaming = new Set<number>();
  private readonly begun = new Map<string, Whose & Begun>();
  private pending: StageMessage[] = [];

  submit({ id, streamTokens }: GenerateJob): void {
    if (streamTokens) this.streaming.add(id);
  }

  /** The job was answered or has left: nothing more is said of it. */
  forget(jobId: number): void {
    this.streaming.delete(jobId);
    this.pending = this.pending.filter((message) => message.jobId !== jobId);
    for (const [key, whose] of this.begun) if (whose.jobId === jobId) this.begun.delete(key);
  }

  prompt(whose: Whose, scores: TokenScores): void {
    this.of(whose).prompt = scores;
    this.stream(whose, { type: 'prompt', ...whose, scores });
  }

  token(whose: Whose, token: GeneratedTokens, nowMs: number): void {
    this.of(whose).firstTokenAtMs ??= nowMs;
    this.stream(whose, { type: 'generated', ...whose, token });
  }

  end(whose: Whose, result: Omit<SequenceResult, keyof Begun>): void {
    const { prompt, firstTokenAtMs } = this.of(whose);
    this.begun.delete(keyOf(whose));
    const message = { type: 'sequence', ...whose, result: { ...result, prompt, firstTokenAtMs } } as const;
    this.pending.push({ jobId: whose.jobId, message, transfer: [], completesPart: true });
  }

  private stream({ jobId }: Whose, message: StageMessage['message']): void {
    if (this.streaming.has(jobId)) this.pending.push({ jobId, message, transfer: [], completesPart: false });
  }

  private of(whose: Whose): Begun {
    const key = keyOf(whose);
    const known = this.begun.get(key) ?? { ...whose, prompt: null, firstTokenAtMs: null };
    this.begun.set(key, known);
    return known;
  }

  /** What was said since the last time. */
  take(): StageMessage[] {
    const { pending } = this;
    this.pending = [];
    return pending;
  }
}

function keyOf({ jobId, index }: Whose): string {
  return `${jobId}:${index}`;
}
