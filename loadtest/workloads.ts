/** Requests of one kind, drawn one after the other. */
import type { Random } from '../test/seed.js';
import type { Planned } from './open-client.js';
import { type Corpus, drawSentences, drawText, type Lengths } from './texts.js';

/** The model's own rule, or every position forced through all steps: what the same server would be without halting. */
export type Mode = 'adaptive' | 'fixed';

export interface Depths {
  readonly score: number;
  readonly translate: number;
}

export interface WorkloadContext {
  readonly corpus: Corpus;
  /** Most steps of the models that score and translate. */
  readonly depths: Depths;
  readonly mode: Mode;
  readonly deadlineMs: number | null;
  /** Keys that the server knows; none: it has no keys. */
  readonly tenants: readonly string[];
}

export type Workload = (random: Random, context: WorkloadContext) => Planned;

const SHORT: Lengths = { medianWords: 16, sigma: 0.4, maxWords: 60 };
const LONG: Lengths = { medianWords: 300, sigma: 0.5, maxWords: 1500 };
/** A quarter below 30 words, one in a hundred above 600. */
const MIXED: Lengths = { medianWords: 60, sigma: 1, maxWords: 1500 };

function score(lengths: Lengths): Workload {
  return (random, context) => ({
    path: '/v1/score',
    body: JSON.stringify({
      input: drawText(random, context.corpus, lengths),
      return_tokens: false,
      ...common(context, context.depths.score),
    }),
    tenant: null,
  });
}

function translate(stream: boolean): Workload {
  return (random, context) => ({
    path: '/v1/translate',
    body: JSON.stringify({
      input: drawSentences(random, context.corpus),
      return_tokens: false,
      ...(stream ? { stream } : {}),
      ...common(context, context.depths.translate),
    }),
    tenant: null,
  });
}

/** One tenant in three sends batches of 24 texts, the others single short ones. */
const tenants: Workload = (random, context) => {
  const tenant = context.tenants.length === 0 ? 0 : random.int(0, context.tenants.length - 1);
  const heavy = tenant === 0 && (context.tenants.length > 0 || random.chance(1 / 3));
  const text = () => drawText(random, context.corpus, heavy ? MIXED : SHORT);
  return {
    path: '/v1/score',
    body: JSON.stringify({
      input: heavy ? Array.from({ length: 24 }, text) : text(),
      return_tokens: false,
      ...common(context, context.depths.score),
    }),
    tenant: context.tenants[tenant] ?? null,
  };
};

function common({ mode, deadlineMs }: WorkloadContext, maxSteps: number): object {
  return {
    ...(mode === 'fixed' ? { min_steps: maxSteps } : {}),
    ...(deadlineMs === null ? {} : { deadline_ms: deadlineMs }),
  };
}

export const WORKLOADS = {
  short: score(SHORT),
  long: score(LONG),
  mixed: score(MIXED),
  translation: translate(false),
  streams: translate(true),
  tenants,
} as const satisfies Record<string, Workload>;
