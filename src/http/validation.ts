/** Turns what the schema validator found into a message that names the field and what is allowed. */
import type { FastifySchemaValidationError } from 'fastify';
import { ServerError } from '../errors.js';
import { didYouMean } from '../nearest.js';
import { ScoreBody } from './schemas.js';

/** The part of JSON Schema that our request fields use. */
interface FieldSchema {
  readonly type?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly anyOf?: readonly unknown[];
}

const FIELDS: Readonly<Record<string, FieldSchema>> = ScoreBody.properties;

export const INPUT_ALLOWED = 'a text, a list of texts, a list of token ids, or a list of lists of token ids';

/** @param issues what the validator found in the body, the first one counts */
export function explainValidation(issues: readonly FastifySchemaValidationError[], body: unknown): ServerError {
  const issue = issues[0];
  const field = issue?.instancePath.split('/')[1];
  if (issue === undefined || field === undefined) return explainBody(issue);
  if (field === 'input') return new ServerError('INVALID_REQUEST', explainInput((body as ScoreBody).input), 'input');
  const schema = FIELDS[field] ?? {};
  return new ServerError('INVALID_REQUEST', `${field} must be ${allowedBy(schema)}`, field);
}

/** The body as a whole is wrong: not an object, or with a field too many or too few. */
function explainBody(issue: FastifySchemaValidationError | undefined): ServerError {
  const { additionalProperty, missingProperty } = issue?.params ?? {};
  if (typeof additionalProperty === 'string') {
    const name = shorten(additionalProperty);
    const hint = didYouMean(name, Object.keys(FIELDS)) || `; the fields are ${Object.keys(FIELDS).join(', ')}`;
    return new ServerError('INVALID_REQUEST', `unknown field '${name}'${hint}`, name);
  }
  if (typeof missingProperty === 'string') {
    return new ServerError('INVALID_REQUEST', `${missingProperty} is required: ${INPUT_ALLOWED}`, missingProperty);
  }
  return new ServerError('INVALID_REQUEST', `the body must be a JSON object with the field input: ${INPUT_ALLOWED}`);
}

function explainInput(input: unknown): string {
  const general = `input must be ${INPUT_ALLOWED}`;
  if (!Array.isArray(input)) return `${general}, not ${kindOf(input)}`;
  const list: readonly unknown[] = input;
  const first = kindOf(list[0]);
  const odd = list.findIndex((item) => kindOf(item) !== first);
  if (odd > 0) return `${general}; input[0] is ${first} but input[${odd}] is ${kindOf(list[odd])}`;
  const inner = list.findIndex((item) => Array.isArray(item) && !item.every(Number.isInteger));
  return inner < 0 ? `${general}; input[0] is ${first}` : `${general}; input[${inner}] holds more than integers`;
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (value === null) return 'null';
  if (typeof value === 'number') return Number.isInteger(value) ? 'an integer' : 'a non-integer number';
  if (typeof value === 'string') return 'a text';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function allowedBy({ type, minimum, maximum, exclusiveMinimum }: FieldSchema): string {
  if (type === 'boolean') return 'true or false';
  if (type === 'string') return 'a text';
  const noun = type === 'integer' ? 'an integer' : 'a number';
  if (exclusiveMinimum !== undefined) return `${noun} above ${exclusiveMinimum} and at most ${maximum}`;
  return maximum === undefined ? `${noun} of at least ${minimum}` : `${noun} from ${minimum} to ${maximum}`;
}

/** Names come from the client: they are quoted, shortened and freed of control characters before they are sent back. */
export function shorten(name: string): string {
  const printable = name.replace(/\p{C}/gu, '\uFFFD');
  return printable.length > 64 ? `${printable.slice(0, 63)}…` : printable;
}
