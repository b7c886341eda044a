/** A model with spans and the scoring of it, without weights. */
import type { SpanListener, SpanOutcome, SpanRequest } from '../src/engine/engine.js';
import type { SpanBlockResult } from '../src/engine/protocol.js';
import { ServerError } from '../src/errors.js';
import type { ModelDescription, SpanDescription } from '../src/models/description.js';
import { describeModel } from './fakes.js';

/** Two layers of two heads; a token's span is that of its heads, whatever the text. */
export function describeSpanModel(
  changes: Partial<ModelDescription> = {},
): ModelDescription & { span: SpanDescription } {
  const heads = [
    { heads: [0, 1], span: 16 },
    { heads: [0], span: 16 },
    { heads: [1], span: 64 },
  ] as const;
  const span: SpanDescription = {
    kind: 'adaptive',
    spanMax: 64,
    ramp: 4,
    headWidth: 8,
    tokenMultiplications: 10_000,
    keys: [
      [5, 16],
      [10, 61],
    ],
    groups: [[heads[0]], [heads[1], heads[2]]],
  };
  return {
    ...describeModel({
      id: 'span-lm-bytes',
      family: 'adaptive-span',
      vocabularySize: 256,
      contextTokens: Number.MAX_SAFE_INTEGER,
      maxSteps: 1,
      threshold: 1,
      bosId: 10,
      eosId: -1,
      folder: '/nowhere/fake-span',
    }),
    span,
    ...changes,
  } as ModelDescription & { span: SpanDescription };
}

const BLOCK_TOKENS = 16;

/** Scores a token by its id, its place in the stream and the cap, block by block as the engine does. */
export class FakeSpans {
  /** Tokens of each open session. */
  readonly #sessions = new Map<string, number>();

  async score(
    { model, texts, session, spanCap, topLogprobs }: SpanRequest,
    listener: SpanListener | undefined,
    pass: () => Promise<void>,
  ): Promise<SpanOutcome> {
    const key = session === null ? null : `${model} ${session.key}`;
    let position = key === null ? 0 : this.#enter(key, session?.continues === true);
    const results: SpanBlockResult[] = [];
    for (const [index, ids] of texts.entries()) {
      if (key === null) position = 0;
      for (let start = 0; start < ids.length; start += BLOCK_TOKENS) {
        await pass();
        const block = scoreBlock(ids.subarray(start, start + BLOCK_TOKENS), position + start, spanCap, topLogprobs);
        await listener?.(index, start, block);
      }
      if (listener === undefined) results.push(scoreBlock(ids, position, spanCap, topLogprobs));
      position += ids.length;
    }
    if (key !== null && session?.ends) this.#sessions.delete(key);
    else if (key !== null) this.#sessions.set(key, position);
    return { texts: results, position, queueMs: 0.25, computeMs: 1.5 };
  }

  #enter(key: string, continues: boolean): number {
    const position = this.#sessions.get(key);
    if (!continues && position !== undefined) throw new ServerError('SESSION_OPEN', 'it is open', 'session');
    if (continues && position === undefined) throw new ServerError('SESSION_UNKNOWN', 'begin it', 'session');
    return position ?? 0;
  }

  end(model: string, key: string): void {
    if (!this.#sessions.delete(`${model} ${key}`)) throw new ServerError('SESSION_UNKNOWN', 'begin it', 'session');
  }
}

function scoreBlock(ids: Int32Array, position: number, cap: number | null, topLogprobs: number): SpanBlockResult {
  const tops = Array.from(ids).flatMap((id) => Array.from({ length: topLogprobs }, (_, k) => (id + k) % 256));
  return {
    logprobs: Float32Array.from(ids, (id, i) => -(1 + ((id + position + i) % 7)) / 4 - (cap === null ? 0 : 0.5)),
    topIds: Int32Array.from(tops),
    topLogprobs: Float32Array.from(tops, (_, i) => -1 - (i % Math.max(1, topLogprobs))),
    spans: new Float32Array(0),
  };
}
