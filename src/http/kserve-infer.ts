/** One inference of the Open Inference Protocol: tensors in, the same run as our own interface's, tensors out. */
import type { ModelDescription } from '../models/description.js';
import type { AppDeps } from './deps.js';
import type { InferOrder } from './kserve-order.js';
import { inferScore } from './kserve-score.js';
import { inferSpans } from './kserve-span.js';
import type { OutputTensor } from './kserve-tensors.js';
import { inferTranslation } from './kserve-translate.js';
import type { RequestExit } from './request-exit.js';
import type { Split } from './timing.js';

export interface Inference {
  readonly outputs: readonly OutputTensor[];
  readonly usage: Readonly<Record<string, number>>;
  readonly timing: Split;
}

/** @throws ServerError */
export async function infer(
  deps: AppDeps,
  exit: RequestExit,
  model: ModelDescription,
  order: InferOrder,
): Promise<Inference> {
  if (model.span !== undefined) return inferSpans(deps, exit, { ...model, span: model.span }, order);
  switch (model.task) {
    case 'score':
      return inferScore(deps, exit, model, order);
    case 'translate':
      return inferTranslation(deps, exit, model, order);
    default:
      return model.task satisfies never;
  }
}
