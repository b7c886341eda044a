/** Turns what the schema validator found into a message that names the field and what is allowed. */
import type { FastifySchemaValidationError } from 'fastify';
import { ServerError } from '../errors.js';
import { didYouMean } from '../nearest.js';
import { CompletionBody, PROMPT_ALLOWED } from './completion-schemas.js';
import { SCORE_INPUT_ALLOWED, ScoreBody } from './schemas.js';
import { TRANSLATE_INPUT_ALLOWED, TranslateBody } from './translate-schemas.js';

/** The part of JSON Schema that our request fields use. */
interface FieldSchema {
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly properties?: Fields;
  readonly anyOf?: readonly FieldSchema[];
  readonly items?: FieldSchema;
}
type Fields = Readonly<Record<string, FieldSchema>>;

interface Texts {
  readonly field: string;
  readonly allowed: string;
}

/** The field of each body that may be one text or several, in ways of which the validator would name only the last. */
const TEXTS: ReadonlyMap<unknown, Texts> = new Map<unknown, Texts>([
  [ScoreBody, { field: 'input', allowed: SCORE_INPUT_ALLOWED }],
  [TranslateBody, { field: 'input', allowed: TRANSLATE_INPUT_ALLOWED }],
  [CompletionBody, { field: 'prompt', allowed: PROMPT_ALLOWED }],
]);

/**
 * @param issues what the validator found in the body, the first one counts
 * @param schema of the body
 * @param limits of fields whose upper limit depends on the model, by field
 */
export function explainValidation(
  issues: readonly FastifySchemaValidationError[],
  body: unknown,
  schema: unknown,
  limits: Readonly<Record<string, number>> = {},
): ServerError {
  const issue = issues[0];
  const fields = (schema as FieldSchema | undefined)?.properties ?? {};
  const texts = TEXTS.get(schema);
  const path = issue?.instancePath.split('/').slice(1) ?? [];
  const [field] = path;
  if (texts !== undefined && field === texts.field) {
    return new ServerError('INVALID_REQUEST', explainTexts((body as Record<string, unknown>)[field], texts), field);
  }
  let at: FieldSchema = { type: 'object', properties: fields };
  for (const name of path) at = at.properties?.[name] ?? {};
  const { additionalProperty, missingProperty } = issue?.params ?? {};
  if (typeof additionalProperty === 'string') {
    return unknownField(additionalProperty, path.join('.'), Object.keys(at.properties ?? {}));
  }
  if (field !== undefined) {
    const name = path.join('.');
    const maximum = limits[path.at(-1) ?? ''];
    const allowed = allowedBy(maximum === undefined ? at : { maximum, ...at });
    return new ServerError(
      'INVALID_REQUEST',
      `${name} must be ${allowed}, not ${valueShown(valueAt(body, path), at)}`,
      name,
    );
  }
  if (typeof missingProperty === 'string') {
    const allowed = texts?.field === missingProperty ? texts.allowed : allowedBy(fields[missingProperty] ?? {});
    return new ServerError('INVALID_REQUEST', `${missingProperty} is required: ${allowed}`, missingProperty);
  }
  const wanted = texts === undefined ? Object.keys(fields).join(', ') : `the field ${texts.field}: ${texts.allowed}`;
  return new ServerError('INVALID_REQUEST', `the body must be a JSON object with ${wanted}`);
}

function unknownField(name: string, within: string, known: readonly string[]): ServerError {
  const shown = shorten(name);
  const hint = didYouMean(shown, known) || `; the fields are ${known.join(', ')}`;
  const full = within === '' ? shown : `${within}.${shown}`;
  return new ServerError('INVALID_REQUEST', `unknown field '${full}'${hint}`, full);
}

function explainTexts(input: unknown, { field, allowed }: Texts): string {
  const general = `${field} must be ${allowed}`;
  if (!Array.isArray(input)) return `${general}, not ${kindOf(input)}`;
  const list: readonly unknown[] = input;
  const first = kindOf(list[0]);
  const odd = list.findIndex((item) => kindOf(item) !== first);
  if (odd > 0) return `${general}; ${field}[0] is ${first} but ${field}[${odd}] is ${kindOf(list[odd])}`;
  const inner = list.findIndex((item) => Array.isArray(item) && !item.every(Number.isInteger));
  return inner < 0 ? `${general}; ${field}[0] is ${first}` : `${general}; ${field}[${inner}] holds more than integers`;
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (value === null) return 'null';
  if (typeof value === 'number') return Number.isInteger(value) ? 'an integer' : 'a non-integer number';
  if (typeof value === 'string') return 'a text';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function valueAt(body: unknown, path: readonly string[]): unknown {
  let value = body;
  for (const name of path) value = (value as Record<string, unknown> | undefined)?.[name];
  return value;
}

/** Texts of clients may be long, and secret: only what should have been one of a few words is shown. */
function valueShown(value: unknown, { enum: words }: FieldSchema): string {
  if (typeof value === 'string' && words !== undefined) return `'${shorten(value)}'`;
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : kindOf(value);
}

function allowedBy(schema: FieldSchema): string {
  const { type, enum: values, minimum, maximum, exclusiveMinimum, properties, anyOf, items } = schema;
  if (anyOf !== undefined) return anyOf.map(allowedBy).join(' or ');
  if (items !== undefined) return items.type === 'string' ? 'a list of texts' : 'a list of integers';
  if (values !== undefined) return values.join(' or ');
  if (properties !== undefined) return `an object with ${Object.keys(properties).join(', ')}`;
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
