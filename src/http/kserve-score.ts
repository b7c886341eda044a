/** Scoring by tensors: texts or token ids in, every token's log-probability and depth out, all texts one after the other. */
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import type { AppDeps } from './deps.js';
import type { Inference } from './kserve-infer.js';
import { checkFields, type InferOrder } from './kserve-order.js';
import { invalid, type OutputTensor, outputTensor } from './kserve-tensors.js';
import type { RequestExit } from './request-exit.js';
import { ScoreBody } from './schemas.js';
import { readInputs, type ScoreInput } from './score-input.js';
import type { ScoredInput } from './score-reply.js';
import { runScore } from './score-run.js';
import { scoreSettings } from './score-settings.js';

export async function inferScore(
  deps: AppDeps,
  exit: RequestExit,
  model: ModelDescription,
  { data, fields, outputs, deadlineMs }: InferOrder,
): Promise<Inference> {
  const { config, admission } = deps;
  const body = checkFields<ScoreBody>(ScoreBody, { ...fields, input: '' }, model, config);
  const settings = { ...scoreSettings(body, model, config), deadlineMs };
  assertTopsAsked(outputs, settings.topLogprobs);
  const inputs = scoreInputs(data, deps, model);
  exit.hold(admission.takeRequest());
  const { reply, scored } = await runScore(deps, exit, { model, inputs, settings });
  return { outputs: scoreOutputs(scored, settings.topLogprobs), usage: reply.usage, timing: reply.timing };
}

/** @throws ServerError INVALID_REQUEST when an output is named that there is none of */
export function assertTopsAsked(outputs: InferOrder['outputs'], topLogprobs: number): void {
  const top = outputs.find(({ name, named }) => named && name.startsWith('top_'));
  if (top === undefined || topLogprobs > 0) return;
  const message = `output '${top.name}' needs the parameter top_logprobs: set it to the number of candidates`;
  throw new ServerError('INVALID_REQUEST', message, 'top_logprobs');
}

export function scoreInputs(
  data: InferOrder['data'],
  { config }: AppDeps,
  { vocabularySize }: ModelDescription,
): ScoreInput[] {
  const text = data.get('text');
  const ids = data.get('input_ids');
  const lengths = data.get('input_lengths');
  if ((text === undefined) === (ids === undefined)) {
    const message = 'send one of the inputs text (BYTES) and input_ids (INT64)';
    throw new ServerError('INVALID_REQUEST', message, 'text');
  }
  const limits = { ...config, vocabularySize };
  if (text !== undefined) {
    if (text.datatype !== 'BYTES') throw invalid('text', 'its datatype must be BYTES');
    if (lengths !== undefined) throw invalid('input_lengths', 'it goes with input_ids: leave it out');
    return readInputs([...text.elements] as string[], limits, 'text');
  }
  if (ids === undefined || ids.datatype === 'BYTES') throw invalid('input_ids', 'its datatype must be INT64 or INT32');
  const numbers = ids.elements as readonly number[];
  if (!numbers.every(Number.isInteger)) throw invalid('input_ids', 'it holds fractions: ids are integers');
  const rows = lengths === undefined ? rowsOf(ids.shape) : (lengths.elements as readonly number[]);
  return readInputs(cut(numbers, rows), limits, 'input_ids');
}

/** [n] is one text, [b, n] are b of the same length. */
function rowsOf(shape: readonly number[]): number[] {
  const [rows = 1, length = 0] = shape.length === 1 ? [1, shape[0]] : shape;
  if (shape.length < 1 || shape.length > 2 || length === 0) {
    throw invalid(
      'input_ids',
      'its shape must be [tokens] or [texts, tokens]; for texts of other lengths send input_lengths',
    );
  }
  return new Array<number>(rows).fill(length);
}

function cut(ids: readonly number[], lengths: readonly number[]): number[][] {
  const total = lengths.reduce((sum, length) => sum + length, 0);
  if (total !== ids.length || !lengths.every((length) => Number.isInteger(length) && length > 0)) {
    throw invalid('input_lengths', `lengths above 0 that add up to the ${ids.length} ids are needed`);
  }
  let end = 0;
  return lengths.map((length) => {
    end += length;
    return ids.slice(end - length, end);
  });
}

function scoreOutputs(scored: readonly ScoredInput[], topLogprobs: number): OutputTensor[] {
  const results = scored.flatMap(({ results }) => results);
  const encoded = scored.map(({ encoded }) => encoded);
  const depths = results.map(({ depths }) => depths);
  const tokens = encoded.reduce((sum, { ids }) => sum + ids.length, 0);
  const tops = [
    outputTensor('top_ids', joinInts(results.map(({ topIds }) => topIds)), [tokens, topLogprobs]),
    outputTensor('top_logprobs', joinFloats(results.map(({ topLogprobs }) => topLogprobs)), [tokens, topLogprobs]),
  ];
  return [
    outputTensor('logprobs', joinFloats(results.map(({ logprobs }) => logprobs))),
    outputTensor('depths', joinInts(depths)),
    outputTensor('remainders', joinFloats(results.map(({ remainders }) => remainders))),
    outputTensor('token_ids', joinInts(encoded.map(({ ids }) => ids))),
    outputTensor(
      'lengths',
      Int32Array.from(encoded, ({ ids }) => ids.length),
    ),
    outputTensor('offsets', joinInts(encoded.map(({ offsets }) => offsets.subarray(0, -1)))),
    ...(topLogprobs === 0 ? [] : tops),
  ];
}

export function joinFloats(parts: readonly Float32Array[]): Float32Array {
  return fill(new Float32Array(lengthOf(parts)), parts);
}

export function joinInts(parts: readonly (Int32Array | Uint8Array)[]): Int32Array {
  return fill(new Int32Array(lengthOf(parts)), parts);
}

function lengthOf(parts: readonly ArrayLike<number>[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0);
}

function fill<T extends Float32Array | Int32Array>(joined: T, parts: readonly ArrayLike<number>[]): T {
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
