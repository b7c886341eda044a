/** A helper process that runs the engine without HTTP and tokenizer, on the token windows that the server gets. */
import { answerParent } from '../src/cli/bench-child.js';
import { budgetOf, type EngineMeasured, measureEngine } from '../src/cli/bench-engine.js';
import type { Config } from '../src/config.js';
import { startEngine } from '../src/engine/start.js';
import type { ModelDescription } from '../src/models/description.js';

export interface EngineAloneRequest {
  readonly config: Config;
  readonly model: ModelDescription;
  readonly sequences: readonly Int32Array[];
  /** Requests in flight: as many as the server has connections. */
  readonly concurrency: number;
}

let engine: ReturnType<typeof startEngine> | null = null;

answerParent(async ({ config, model, sequences, concurrency }: EngineAloneRequest): Promise<EngineMeasured> => {
  engine ??= startEngine(config, [model]);
  const load = { model, sequences, budget: budgetOf(model, 'adaptive'), concurrency };
  return measureEngine(await engine, load, new AbortController().signal);
});
