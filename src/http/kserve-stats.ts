/** What the protocol's statistics tell of a model: its requests over this protocol, since the start, and where their time went. */
import type { Split } from './timing.js';

interface Duration {
  count: number;
  ns: number;
}

const PARTS = ['success', 'fail', 'queue', 'compute_input', 'compute_infer', 'compute_output'] as const;
type Part = (typeof PARTS)[number];

interface Tally {
  readonly parts: Record<Part, Duration>;
  /** Unix milliseconds; 0: never. */
  lastInferenceMs: number;
  /** Texts in all. */
  inferences: number;
}

export class InferenceStats {
  readonly #tallies = new Map<string, Tally>();

  /** @param texts of the request; replyMs: making the reply, after the engine was done */
  answered(model: string, texts: number, { total_ms, queue_ms, tokenize_ms, compute_ms }: Split, nowMs: number): void {
    const tally = this.#tally(model);
    tally.inferences += texts;
    tally.lastInferenceMs = nowMs;
    add(tally.parts.success, total_ms);
    add(tally.parts.queue, queue_ms);
    add(tally.parts.compute_input, tokenize_ms);
    add(tally.parts.compute_infer, compute_ms);
    add(tally.parts.compute_output, Math.max(0, total_ms - queue_ms - tokenize_ms - compute_ms));
  }

  failed(model: string, ms: number): void {
    add(this.#tally(model).parts.fail, ms);
  }

  /** In the protocol's shape. */
  of(model: string, version: string) {
    const { parts, lastInferenceMs, inferences } = this.#tally(model);
    return {
      name: model,
      version,
      last_inference: lastInferenceMs,
      inference_count: inferences,
      execution_count: parts.success.count,
      inference_stats: Object.fromEntries(
        PARTS.map((part) => [part, { ...parts[part], ns: Math.round(parts[part].ns) }]),
      ),
      batch_stats: [],
    };
  }

  /** A model that is gone takes its numbers along. */
  forget(model: string): void {
    this.#tallies.delete(model);
  }

  #tally(model: string): Tally {
    let tally = this.#tallies.get(model);
    if (tally === undefined) {
      const parts = Object.fromEntries(PARTS.map((part) => [part, { count: 0, ns: 0 }])) as Tally['parts'];
      tally = { parts, lastInferenceMs: 0, inferences: 0 };
      this.#tallies.set(model, tally);
    }
    return tally;
  }
}

function add(duration: Duration, ms: number): void {
  duration.count += 1;
  duration.ns += ms * 1e6;
}
