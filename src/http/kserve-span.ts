/** Scoring by tensors with a model that has attention spans: as `kserve-score.ts`, with spans in the place of depths. */
import type { ModelDescription, SpanDescription } from '../models/description.js';
import type { AppDeps } from './deps.js';
import type { Inference } from './kserve-infer.js';
import { checkFields, type InferOrder } from './kserve-order.js';
import { assertTopsAsked, joinFloats, joinInts, scoreInputs } from './kserve-score.js';
import { outputTensor } from './kserve-tensors.js';
import type { RequestExit } from './request-exit.js';
import { ScoreBody } from './schemas.js';
import { runSpanScore } from './span-run.js';
import { spanSettings } from './span-settings.js';

export async function inferSpans(
  deps: AppDeps,
  exit: RequestExit,
  model: ModelDescription & { readonly span: SpanDescription },
  { data, fields, outputs, deadlineMs }: InferOrder,
): Promise<Inference> {
  const { config, admission } = deps;
  const body = checkFields<ScoreBody>(ScoreBody, { ...fields, input: '' }, model, config);
  // Sessions are /v1/score's alone, so it does not matter whose this would be.
  const settings = { ...spanSettings(body, model, config, { key: null, headers: {} }), deadlineMs };
  const { topLogprobs } = settings;
  assertTopsAsked(outputs, topLogprobs);
  const inputs = scoreInputs(data, deps, model);
  exit.hold(admission.takeRequest());
  const { reply, encoded, results } = await runSpanScore(deps, exit, { model, inputs, settings });
  const { keys, kind } = model.span;
  const tops = [
    outputTensor('top_ids', joinInts(results.map(({ topIds }) => topIds)), [reply.usage.tokens, topLogprobs]),
    outputTensor('top_logprobs', joinFloats(results.map((one) => one.topLogprobs)), [reply.usage.tokens, topLogprobs]),
  ];
  return {
    outputs: [
      outputTensor('logprobs', joinFloats(results.map(({ logprobs }) => logprobs))),
      outputTensor('token_ids', joinInts(encoded.map(({ ids }) => ids))),
      outputTensor(
        'lengths',
        Int32Array.from(encoded, ({ ids }) => ids.length),
      ),
      outputTensor('offsets', joinInts(encoded.map(({ offsets }) => offsets.subarray(0, -1)))),
      outputTensor('head_spans', Int32Array.from(keys.flat()), [keys.length, keys[0]?.length ?? 0]),
      ...(kind === 'dynamic' ? [outputTensor('spans', joinFloats(results.map(({ spans }) => spans)))] : []),
      ...(topLogprobs === 0 ? [] : tops),
    ],
    usage: reply.usage,
    timing: reply.timing,
  };
}
