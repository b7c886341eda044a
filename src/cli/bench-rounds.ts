/**
 * The measurements of `bench`: in every round everything is measured once, the two modes of the engine in alternating order, so
 * that whatever drifts meanwhile (temperature, other work of the machine) meets all of them.
 */
import type { Engine } from '../engine/engine.js';
import type { ModelDescription } from '../models/description.js';
import { budgetOf, type EngineMeasured, type Measured, measureEngine } from './bench-engine.js';
import { Stopped } from './command.js';

/** Something else that computes the same scores. */
export interface Baseline {
  readonly name: string;
  /** Its sequences of one batch all wait for the deepest of them. */
  measure(): Promise<Measured>;
}

export interface Round {
  readonly adaptive: EngineMeasured;
  readonly fixed: EngineMeasured;
  readonly mixedAdaptive: EngineMeasured;
  readonly mixedFixed: EngineMeasured;
  /** In the order of the baselines. */
  readonly baselines: readonly Measured[];
}

export interface RoundsPlan {
  readonly engine: Engine;
  readonly model: ModelDescription;
  readonly sequences: readonly Int32Array[];
  readonly mixed: readonly Int32Array[];
  readonly baselines: readonly Baseline[];
  readonly rounds: number;
}

/** Untimed at first: memory is touched, caches and clocks settle. */
const WARM_UP_SEQUENCES = 8;

/** @throws Stopped when `stop` aborts */
export async function measureRounds(
  plan: RoundsPlan,
  say: (text: string) => void,
  stop: AbortSignal,
): Promise<Round[]> {
  const run = (sequences: readonly Int32Array[], mode: 'adaptive' | 'fixed') =>
    measureEngine(
      plan.engine,
      { model: plan.model, sequences, budget: budgetOf(plan.model, mode), concurrency: sequences.length },
      stop,
    );
  try {
    for (const mode of ['adaptive', 'fixed'] as const) await run(plan.sequences.slice(0, WARM_UP_SEQUENCES), mode);
    const rounds: Round[] = [];
    for (let i = 0; i < plan.rounds; i++) {
      const [adaptive, fixed] = await both(plan.sequences, i, run);
      const [mixedAdaptive, mixedFixed] = await both(plan.mixed, i, run);
      const baselines: Measured[] = [];
      for (const baseline of plan.baselines) {
        if (stop.aborted) throw new Stopped();
        baselines.push(await baseline.measure());
      }
      rounds.push({ adaptive, fixed, mixedAdaptive, mixedFixed, baselines });
      const rates = [adaptive, fixed, mixedAdaptive, mixedFixed, ...baselines].map((one) => Math.round(rateOf(one)));
      say(`round ${i + 1} of ${plan.rounds}: ${rates.join(', ')} tokens/s\n`);
    }
    return rounds;
  } catch (error) {
    throw stop.aborted ? new Stopped() : error;
  }
}

async function both(
  sequences: readonly Int32Array[],
  round: number,
  run: (sequences: readonly Int32Array[], mode: 'adaptive' | 'fixed') => Promise<EngineMeasured>,
): Promise<[adaptive: EngineMeasured, fixed: EngineMeasured]> {
  if (round % 2 === 0) {
    const adaptive = await run(sequences, 'adaptive');
    return [adaptive, await run(sequences, 'fixed')];
  }
  const fixed = await run(sequences, 'fixed');
  return [await run(sequences, 'adaptive'), fixed];
}

export function rateOf({ tokens, seconds }: Measured): number {
  return tokens / seconds;
}
