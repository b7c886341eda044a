/** Translation by tensors: texts in, their translations out, with the tokens of both sides. */
import type { ModelDescription } from '../models/description.js';
import type { AppDeps } from './deps.js';
import type { Inference } from './kserve-infer.js';
import { checkFields, type InferOrder } from './kserve-order.js';
import { invalid, outputTensor } from './kserve-tensors.js';
import type { RequestExit } from './request-exit.js';
import { runTranslation } from './translate-run.js';
import { TranslateBody } from './translate-schemas.js';
import { translateInputs, translateSettings } from './translate-settings.js';

export async function inferTranslation(
  deps: AppDeps,
  exit: RequestExit,
  model: ModelDescription,
  { data, fields, deadlineMs }: InferOrder,
): Promise<Inference> {
  const { config, admission } = deps;
  const text = data.get('text');
  if (text?.datatype !== 'BYTES') throw invalid('text', 'it is needed, of datatype BYTES');
  const body = checkFields<TranslateBody>(TranslateBody, { ...fields, input: '' }, model, config);
  const settings = translateSettings(body, model);
  const inputs = translateInputs([...text.elements] as string[], config, 'text');
  exit.hold(admission.takeRequest());
  const { reply, texts } = await runTranslation(deps, exit, { model, inputs, settings, deadlineMs });
  // Read once: a sentence computes its tokens each time.
  const targets = texts.map(({ sentences }) => sentences.flatMap(({ tokens }) => tokens));
  const sources = texts.map(({ sentences }) => sentences.flatMap(({ sourceTokens }) => sourceTokens));
  const all = targets.flat();
  const outputs = [
    outputTensor(
      'text',
      texts.map((translated) => translated.text),
    ),
    outputTensor(
      'logprobs',
      Float32Array.from(all, ({ logprob }) => logprob),
    ),
    outputTensor(
      'depths',
      Int32Array.from(all, ({ depth }) => depth),
    ),
    outputTensor(
      'token_ids',
      Int32Array.from(all, ({ id }) => id),
    ),
    outputTensor(
      'lengths',
      Int32Array.from(targets, ({ length }) => length),
    ),
    outputTensor(
      'source_ids',
      Int32Array.from(sources.flat(), ({ id }) => id),
    ),
    outputTensor(
      'source_depths',
      Int32Array.from(sources.flat(), ({ depth }) => depth),
    ),
    outputTensor(
      'source_lengths',
      Int32Array.from(sources, ({ length }) => length),
    ),
  ];
  return { outputs, usage: reply.usage, timing: reply.timing };
}
