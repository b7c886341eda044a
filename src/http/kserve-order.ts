/** From the tensors and parameters of a request to the fields that the other interfaces have, under the same names. */
import type { TSchema } from '@fastify/type-provider-typebox';
import { Value } from 'typebox/value';
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { didYouMean } from '../nearest.js';
import { atMost } from './budget.js';
import { limitsOf } from './field-limits.js';
import type { InferRequest, RawBody } from './kserve-body.js';
import { type ModelTensors, type TensorMetadata, tensorsOf } from './kserve-models.js';
import { type InputTensor, invalid } from './kserve-tensors.js';
import { explainValidation, shorten } from './validation.js';

type Scalar = string | number | boolean;

export interface InferOrder {
  readonly id: string | null;
  readonly data: ReadonlyMap<string, InputTensor>;
  readonly fields: Readonly<Record<string, Scalar>>;
  /** The outputs that are wanted, in order: whether as bytes, and whether the client named them or just wants all. */
  readonly outputs: readonly { readonly name: string; readonly binary: boolean; readonly named: boolean }[];
  readonly deadlineMs: number | null;
}

/** Parameters of the protocol itself. A server without priorities may ignore one, a server without sequences may not. */
const PROTOCOL_PARAMETERS: readonly string[] = ['binary_data_output', 'timeout', 'priority'];

/** @throws ServerError INVALID_REQUEST */
export function readOrder(
  request: InferRequest | RawBody,
  model: ModelDescription,
  config: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
): InferOrder {
  const { tensors, body } = 'raw' in request ? rawOrder(request.raw) : request;
  const known = tensorsOf(model);
  const data = new Map<string, InputTensor>();
  const fields: Record<string, Scalar> = {};
  for (const tensor of tensors) {
    const { name } = tensor;
    if (data.has(name) || name in fields) throw invalid(name, 'it is given twice: send it once');
    if (known.data.some((input) => input.name === name)) data.set(name, tensor);
    else if (known.fields.some((input) => input.name === name)) fields[name] = scalarOf(tensor);
    else throw unknownName('input', name, [...known.data, ...known.fields]);
  }
  const parameters = body.parameters ?? {};
  for (const [name, value] of Object.entries(parameters)) {
    if (PROTOCOL_PARAMETERS.includes(name)) continue;
    if (!known.fields.some((field) => field.name === name)) throw unknownName('parameter', name, known.fields);
    if (name in fields) throw invalid(name, 'it is given as a tensor and as a parameter: send one of them');
    fields[name] = value;
  }
  return {
    id: body.id ?? null,
    data,
    fields,
    outputs: outputsOf(body, parameters.binary_data_output === true, known),
    deadlineMs: deadlineOf(parameters.timeout, config),
  };
}

/** A raw input has no JSON part to say anything in: one text, and every output comes as bytes. */
function rawOrder(text: string): InferRequest {
  const tensor = { name: 'text', datatype: 'BYTES', shape: [1], elements: [text] };
  return { body: { inputs: [], parameters: { binary_data_output: true } }, tensors: [tensor] };
}

function scalarOf({ name, elements }: InputTensor): Scalar {
  const [value] = elements;
  if (value === undefined || elements.length > 1) throw invalid(name, `it has ${elements.length} elements: send one`);
  return value;
}

function outputsOf(
  { outputs }: InferRequest['body'],
  binaryByDefault: boolean,
  known: ModelTensors,
): InferOrder['outputs'] {
  if (outputs === undefined || outputs.length === 0) {
    return known.outputs.map(({ name }) => ({ name, binary: binaryByDefault, named: false }));
  }
  return outputs.map(({ name, parameters = {} }) => {
    if (!known.outputs.some((output) => output.name === name)) throw unknownName('output', name, known.outputs);
    const other = Object.keys(parameters).find((parameter) => parameter !== 'binary_data');
    if (other !== undefined) {
      const message = `output '${name}': the parameter '${shorten(other)}' is not supported: leave it out`;
      throw new ServerError('INVALID_REQUEST', message, name);
    }
    return { name, binary: (parameters.binary_data ?? binaryByDefault) === true, named: true };
  });
}

/** The protocol counts microseconds; 0 is no timeout. */
function deadlineOf(
  timeout: Scalar | undefined,
  { deadlineMsDefault, deadlineMsMax }: Pick<Config, 'deadlineMsDefault' | 'deadlineMsMax'>,
): number | null {
  if (timeout === undefined || timeout === 0) return deadlineMsDefault === 0 ? null : deadlineMsDefault;
  if (!Number.isSafeInteger(timeout) || (timeout as number) < 0) {
    throw new ServerError('INVALID_REQUEST', 'timeout must be an integer of microseconds of at least 0', 'timeout');
  }
  return Math.ceil(
    atMost('timeout', timeout as number, deadlineMsMax * 1000, '--deadline-ms-max, in microseconds') / 1000,
  );
}

function unknownName(what: string, name: string, known: readonly TensorMetadata[]): ServerError {
  const names = known.map((tensor) => tensor.name);
  const shown = shorten(name);
  const hint = didYouMean(shown, names) || `; it may be ${names.join(', ')}`;
  return new ServerError('INVALID_REQUEST', `unknown ${what} '${shown}'${hint}`, shown);
}

/**
 * The fields as a body of our own interface, whose schema has their types and ranges.
 * @throws ServerError INVALID_REQUEST
 */
export function checkFields<T>(schema: TSchema, body: object, model: ModelDescription, config: Config): T {
  if (Value.Check(schema, body)) return body as T;
  throw explainValidation([...Value.Errors(schema, body)] as unknown as Issues, body, schema, limitsOf(model, config));
}

type Issues = Parameters<typeof explainValidation>[0];
