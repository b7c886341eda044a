/** What a job asks of the engine, and what its results say it took. */
import type { Work } from './cost-book.js';
import type { FromEngine, Job } from './protocol.js';

type Unnumbered<J> = J extends Job ? Omit<J, 'id' | 'submittedAtMs'> : never;
export type NewJob = Unnumbered<Job>;

/** @param tokens of all its lanes */
export function workOf(job: NewJob, tokens: number): Work {
  const { kind, model } = job;
  switch (job.kind) {
    case 'score':
    case 'generate':
      return { kind, model, tokens, budget: job.budget };
    case 'translate':
      return { kind, model, tokens, budget: job.decoderBudget };
    case 'span':
      // What it is charged for leaves out its tokens; what it costs does not.
      return { kind, model, tokens: job.texts.reduce((sum, { length }) => sum + length, 0), budget: null };
    default:
      return job satisfies never;
  }
}

/** Rows computed for a part of a job, and whether the part is the last of its lane. */
export function costOf(message: FromEngine): { readonly rows: number; readonly endsLane: boolean } {
  switch (message.type) {
    case 'window':
      return { rows: message.result.positionSteps, endsLane: true };
    case 'sentence':
      return { rows: message.result.encoderSteps + message.result.decoderSteps, endsLane: true };
    case 'sequence':
      return { rows: message.result.positionSteps, endsLane: true };
    case 'block':
      return { rows: message.result.logprobs.length, endsLane: false };
    default:
      return { rows: 0, endsLane: false };
  }
}
