/** One measurement of the engine: sequences in, time to the last result out. */
import { setMaxListeners } from 'node:events';
import { monotonicMs } from '../clock.js';
import type { Engine } from '../engine/engine.js';
import type { Budget, EngineTelemetry, StageTelemetry } from '../engine/protocol.js';
import type { ModelDescription } from '../models/description.js';

/** What scoring a set of sequences once took and gave. */
export interface Measured {
  readonly seconds: number;
  readonly tokens: number;
  /** Sum of the depths of all positions. */
  readonly positionSteps: number;
  /** Sum over all tokens, nats: two ways of computing the same thing can be told from two different things. */
  readonly logprob: number;
}

/** What the engine's loop says of the time between the first request and the last result. */
export type EngineShares = {
  readonly [K in
    | 'steps'
    | 'computeSeconds'
    | 'hostSeconds'
    | 'activeRows'
    | 'renewedRows'
    | 'keysUseful'
    | 'keysComputed']: StageTelemetry[K];
};

export interface EngineMeasured extends Measured {
  /**
   * CPU time of this process meanwhile. On a machine that does other work it is the steadier figure; with one thread it is the work
   * itself, with more it counts the pool's waiting too, which spins.
   */
  readonly cpuSeconds: number;
  readonly engine: EngineShares;
}

export interface EngineLoad {
  readonly model: ModelDescription;
  readonly sequences: readonly Int32Array[];
  readonly budget: Budget;
  /** Requests in flight, one sequence each. */
  readonly concurrency: number;
}

/** The model's own rule, or every position forced through all steps. */
export function budgetOf(model: ModelDescription, mode: 'adaptive' | 'fixed'): Budget {
  const { maxSteps, threshold } = model;
  return { maxSteps, minSteps: mode === 'fixed' ? maxSteps : 1, threshold };
}

/** Scores every sequence once. @throws ServerError when the engine refuses or `signal` aborts */
export async function measureEngine(engine: Engine, load: EngineLoad, signal: AbortSignal): Promise<EngineMeasured> {
  const { model, sequences, budget, concurrency } = load;
  // Every request in flight listens to it: many are not a leak.
  setMaxListeners(0, signal);
  const telemetry = new Tally();
  const stopListening = engine.onTelemetry((report) => telemetry.add(report));
  let next = 0;
  let positionSteps = 0;
  let logprob = 0;
  const feed = async (): Promise<void> => {
    while (next < sequences.length) {
      // A copy: what is sent leaves this thread.
      const ids = (sequences[next++] as Int32Array).slice();
      const request = { model: model.id, windows: [{ ids, scoreFrom: 0 }], budget, topLogprobs: 0, deadlineAtMs: null };
      for (const window of (await engine.score(request, signal)).windows) {
        positionSteps += window.positionSteps;
        logprob += window.logprobs.reduce((sum, value) => sum + value, 0);
      }
    }
  };
  try {
    const startedAtMs = monotonicMs();
    const cpuBefore = process.cpuUsage();
    await Promise.all(Array.from({ length: Math.min(concurrency, sequences.length) }, feed));
    const seconds = (monotonicMs() - startedAtMs) / 1000;
    const cpu = process.cpuUsage(cpuBefore);
    // The loop's last report follows its last result.
    await telemetry.idle();
    const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
    const cpuSeconds = (cpu.user + cpu.system) / 1e6;
    return { seconds, cpuSeconds, tokens, positionSteps, logprob, engine: telemetry.sums };
  } finally {
    stopListening();
  }
}

class Tally {
  sums: EngineShares = {
    steps: 0,
    computeSeconds: 0,
    hostSeconds: 0,
    activeRows: 0,
    renewedRows: 0,
    keysUseful: 0,
    keysComputed: 0,
  };
  private lanes = 0;
  private settle: (() => void) | null = null;

  add({ stages, lanesWaiting, lanesRunning }: EngineTelemetry): void {
    for (const model of stages) {
      const entries = Object.entries(this.sums) as [keyof EngineShares, number][];
      this.sums = Object.fromEntries(entries.map(([name, sum]) => [name, sum + model[name]])) as EngineShares;
    }
    this.lanes = lanesWaiting + lanesRunning;
    if (this.lanes === 0) this.settle?.();
  }

  /** Resolves with the report that says that nothing is left. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.settle = resolve;
      if (this.lanes === 0 && this.sums.steps > 0) resolve();
    });
  }
}
