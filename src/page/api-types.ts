/** What the page reads of replies; `/openapi.json` has the whole. */
import type { SpanFacts } from './span-reach.js';

export interface Model {
  readonly id: string;
  readonly family: string;
  readonly task: string;
  readonly language: string;
  readonly target_language: string | null;
  /** null: a text of any length. */
  readonly max_model_len: number | null;
  readonly halting: { readonly max_steps: number; readonly threshold: number };
  /** Of a model with attention spans. */
  readonly span?: SpanFacts | null;
}

export interface Candidate {
  readonly text: string;
  readonly logprob: number;
}

export interface ScoredToken {
  readonly id: number;
  readonly text: string;
  readonly logprob: number;
  readonly depth: number;
  readonly remainder: number;
  readonly top_logprobs?: readonly Candidate[];
}

export interface Ponder {
  readonly mean: number;
  readonly max: number;
  readonly histogram: readonly number[];
}

export interface ScoreReply {
  readonly model: string;
  readonly results: readonly {
    readonly logprob: number;
    readonly bytes: number;
    readonly bits_per_byte: number | null;
    readonly perplexity: number;
    readonly windows: number;
    readonly ponder: Ponder & { readonly cost: number };
    readonly tokens?: readonly ScoredToken[];
  }[];
  readonly usage: { readonly tokens: number; readonly position_steps: number; readonly position_steps_fixed: number };
  readonly timing: Timing;
}

export interface SpanToken {
  readonly text: string;
  readonly logprob: number;
  /** Mean keys of its heads, where they depend on the token. */
  readonly span?: number;
  readonly top_logprobs?: readonly Candidate[];
}

export interface SpanReply {
  readonly results: readonly {
    readonly bits_per_byte: number | null;
    readonly span: { readonly mean: number };
    readonly tokens?: readonly SpanToken[];
  }[];
  readonly usage: {
    readonly tokens: number;
    readonly keys: number;
    readonly keys_computed: number;
    readonly keys_full: number;
  };
  readonly timing: Timing;
}

export interface Timing {
  readonly queue_ms: number;
  readonly compute_ms: number;
  readonly total_ms: number;
  readonly first_token_ms?: number;
}

export interface TargetToken {
  readonly id: number;
  readonly text: string;
  readonly logprob: number;
  readonly depth: number;
}

export interface SourceToken {
  readonly id: number;
  readonly text: string;
  readonly depth: number;
}

export interface TranslationSummary {
  readonly index: number;
  readonly alternatives: readonly { readonly text: string; readonly score: number }[];
  readonly finish_reason: string;
  readonly ponder: { readonly encoder: Ponder; readonly decoder: Ponder };
}

export type TranslateEvent =
  | { readonly type: 'token'; readonly token: TargetToken; readonly text_so_far: string }
  | {
      readonly type: 'sentence';
      readonly text: string;
      readonly finish_reason?: string;
      readonly tokens?: readonly TargetToken[];
      readonly source_tokens?: readonly SourceToken[];
    }
  | {
      readonly type: 'result';
      readonly results: readonly TranslationSummary[];
      readonly usage: { readonly position_steps: number; readonly position_steps_fixed: number };
      readonly timing: Timing;
    }
  | { readonly type: 'error'; readonly error: { readonly message: string } };
