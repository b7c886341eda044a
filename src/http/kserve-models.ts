/** The tensors of each kind of model, as the metadata of the Open Inference Protocol lists them. */
import type { ModelDescription } from '../models/description.js';

/** Packages have no versions of their own. */
export const MODEL_VERSION = '1';

export interface TensorMetadata {
  readonly name: string;
  readonly datatype: 'BYTES' | 'FP32' | 'INT32' | 'INT64';
  /** -1: any length. */
  readonly shape: readonly number[];
}

export interface ModelTensors {
  /** The texts: one of them is needed. */
  readonly data: readonly TensorMetadata[];
  /** Settings: each a tensor of one element, or a parameter of the request with the same name. */
  readonly fields: readonly TensorMetadata[];
  readonly outputs: readonly TensorMetadata[];
}

const one = (name: string, datatype: 'INT32' | 'FP32' | 'BYTES'): TensorMetadata => ({ name, datatype, shape: [1] });
const any = (name: string, datatype: TensorMetadata['datatype'], dimensions = 1): TensorMetadata => ({
  name,
  datatype,
  shape: new Array(dimensions).fill(-1),
});

const BUDGET = [one('max_steps', 'INT32'), one('min_steps', 'INT32'), one('threshold', 'FP32')];
/** Of all tokens of all texts, one after the other; `lengths` tells how many each text has. */
const PER_TOKEN = [any('logprobs', 'FP32'), any('depths', 'INT32')];
const TOKENS = [any('token_ids', 'INT32'), any('lengths', 'INT32')];

const SCORER: ModelTensors = {
  data: [any('text', 'BYTES'), any('input_ids', 'INT64', 2), any('input_lengths', 'INT32')],
  fields: [...BUDGET, one('top_logprobs', 'INT32'), one('stride', 'INT32')],
  outputs: [
    ...PER_TOKEN,
    any('remainders', 'FP32'),
    ...TOKENS,
    any('offsets', 'INT32'),
    any('top_ids', 'INT32', 2),
    any('top_logprobs', 'FP32', 2),
  ],
};

/** `head_spans`: keys of each layer and head; the dynamic kind also has the mean span of each token. */
const SPAN_SCORER: ModelTensors = {
  data: SCORER.data,
  fields: [one('span_max', 'INT32'), one('top_logprobs', 'INT32')],
  outputs: [
    any('logprobs', 'FP32'),
    ...TOKENS,
    any('offsets', 'INT32'),
    any('head_spans', 'INT32', 2),
    any('top_ids', 'INT32', 2),
    any('top_logprobs', 'FP32', 2),
  ],
};
const DYNAMIC_SPAN_SCORER: ModelTensors = { ...SPAN_SCORER, outputs: [...SPAN_SCORER.outputs, any('spans', 'FP32')] };

const TRANSLATOR: ModelTensors = {
  data: [any('text', 'BYTES')],
  fields: [
    ...BUDGET,
    one('beam', 'INT32'),
    one('length_penalty', 'FP32'),
    one('max_new_tokens', 'INT32'),
    one('format', 'BYTES'),
  ],
  outputs: [
    any('text', 'BYTES'),
    ...PER_TOKEN,
    ...TOKENS,
    any('source_ids', 'INT32'),
    any('source_depths', 'INT32'),
    any('source_lengths', 'INT32'),
  ],
};

export function tensorsOf({ task, span }: ModelDescription): ModelTensors {
  if (span !== undefined) return span.kind === 'dynamic' ? DYNAMIC_SPAN_SCORER : SPAN_SCORER;
  switch (task) {
    case 'score':
      return SCORER;
    case 'translate':
      return TRANSLATOR;
    default:
      return task satisfies never;
  }
}

export function modelMetadata(model: ModelDescription) {
  const { data, fields, outputs } = tensorsOf(model);
  const copies = (tensors: readonly TensorMetadata[]) =>
    tensors.map(({ shape, ...rest }) => ({ ...rest, shape: [...shape] }));
  return {
    name: model.id,
    versions: [MODEL_VERSION],
    platform: 'ponder-serve',
    inputs: copies([...data, ...fields]),
    outputs: copies(outputs),
  };
}

const CONFIG_TYPES = { BYTES: 'TYPE_STRING', FP32: 'TYPE_FP32', INT32: 'TYPE_INT32', INT64: 'TYPE_INT64' } as const;

/** Triton's model configuration, as far as it means something here; the batch dimension is part of the shapes. */
export function modelConfig(model: ModelDescription) {
  const { data, fields, outputs } = tensorsOf(model);
  const tensors = (list: readonly TensorMetadata[], optional: boolean) =>
    list.map(({ name, datatype, shape }) => ({
      name,
      data_type: CONFIG_TYPES[datatype],
      dims: [...shape],
      ...(optional ? { optional } : {}),
    }));
  const facts = {
    family: model.family,
    task: model.task,
    precision: model.precision,
    // A model with attention spans has no depth to bound, and reads a text of any length.
    ...(model.span === undefined
      ? { max_steps: model.maxSteps, threshold: model.threshold, context_tokens: model.contextTokens }
      : { span_max: model.span.spanMax }),
  };
  return {
    name: model.id,
    platform: 'ponder-serve',
    backend: 'ponder-serve',
    max_batch_size: 0,
    input: tensors([...data, ...fields], true),
    output: tensors(outputs, false),
    parameters: Object.fromEntries(
      Object.entries(facts).map(([name, value]) => [name, { string_value: String(value) }]),
    ),
  };
}
