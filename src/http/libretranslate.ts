/**
 * What LibreTranslate's clients send and expect, as its server answers them: parameters from JSON, form or query string, errors as
 * `{"error": text}` with its own texts, and languages by code and English name.
 */
import type { FastifyRequest } from 'fastify';
import { BEAM_MAX } from '../config.js';
import { ServerError } from '../errors.js';
import type { ModelDescription } from '../models/description.js';
import { shorten } from './validation.js';

/** Paths whose errors have LibreTranslate's shape. */
export const LIBRETRANSLATE_PATHS: ReadonlySet<string> = new Set([
  '/translate',
  '/detect',
  '/languages',
  '/frontend/settings',
  '/health',
]);

export type Parameters = Readonly<Record<string, unknown>>;

/** Of JSON the body counts alone; otherwise query string and form together, the query string first. */
export function parametersOf(request: FastifyRequest): Parameters {
  const { body, query } = request;
  if (body instanceof URLSearchParams) return { ...Object.fromEntries(firsts(body)), ...flat(query as Parameters) };
  if (body === undefined || body === '') return flat(query as Parameters);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw invalid('Invalid JSON format');
  return body as Parameters;
}

function* firsts(form: URLSearchParams): Generator<[string, string]> {
  const seen = new Set<string>();
  for (const [name, value] of form) {
    if (seen.has(name)) continue;
    seen.add(name);
    // Browsers send text areas with CRLF.
    yield [name, value.replace(/\r\n?/g, '\n')];
  }
}

function flat(query: Parameters): Parameters {
  return Object.fromEntries(
    Object.entries(query).map(([name, value]) => [name, Array.isArray(value) ? value[0] : value]),
  );
}

export interface TranslateParameters {
  readonly q: string | readonly string[];
  readonly source: string;
  readonly target: string;
  readonly format: string;
  readonly alternatives: number;
}

/** @throws ServerError INVALID_REQUEST, in the order and the words of LibreTranslate */
export function translateParameters(parameters: Parameters): TranslateParameters {
  const q = textsOf(parameters);
  const source = required(parameters, 'source');
  const target = required(parameters, 'target');
  const alternatives = alternativesOf(parameters.alternatives);
  const format = parameters.format ? String(parameters.format) : 'text';
  return { q, source, target, format, alternatives };
}

/** @throws ServerError INVALID_REQUEST */
export function textsOf({ q }: Parameters): string | readonly string[] {
  if (q === undefined || q === null || q === '' || (Array.isArray(q) && q.length === 0)) throw missing('q');
  if (typeof q === 'string') return q;
  const odd = Array.isArray(q) ? q.findIndex((text) => typeof text !== 'string') : -1;
  if (!Array.isArray(q) || odd >= 0) {
    throw invalid(
      `Invalid request: ${odd >= 0 ? `q[${odd}] is not a text` : 'q is neither a text nor a list of texts'}`,
    );
  }
  return q as string[];
}

function required(parameters: Parameters, name: string): string {
  const value = parameters[name];
  if (!value) throw missing(name);
  return String(value);
}

function alternativesOf(value: unknown): number {
  if (value === undefined || value === null || value === '') return 0;
  const count = Math.trunc(typeof value === 'number' ? value : Number.parseInt(String(value), 10));
  const isNumber = typeof value === 'number' || (typeof value === 'string' && /^\s*[-+]?\d+\s*$/.test(value));
  if (!isNumber || !Number.isFinite(count)) {
    throw invalid('Invalid request: alternatives parameter is not a number');
  }
  if (count >= BEAM_MAX) throw invalid(`Invalid request: alternatives parameter must be <= ${BEAM_MAX - 1}`);
  return Math.max(0, count);
}

export interface Language {
  readonly code: string;
  readonly name: string;
  /** Into itself too: such a text passes as it is. */
  readonly targets: readonly string[];
}

/** Every language that some model translates from or into, sources first. */
export function languagesOf(models: readonly ModelDescription[]): Language[] {
  const able = models.filter(({ task }) => task === 'translate');
  const codes = new Set([...able.map(({ language }) => language), ...able.map((model) => targetOf(model))]);
  return [...codes].map((code) => {
    const targets = able.filter(({ language }) => language === code).map((model) => targetOf(model));
    return { code, name: nameOf(code), targets: [...new Set([...targets, code])].sort() };
  });
}

function targetOf({ id, targetLanguage }: ModelDescription): string {
  if (targetLanguage === null) throw new Error(`model ${id} translates into nothing`);
  return targetLanguage;
}

/**
 * @returns whether there is anything to translate: from a language into itself a text passes as it is
 * @throws ServerError INVALID_REQUEST
 */
export function checkPair(languages: readonly Language[], source: Language, target: string): boolean {
  const to = languages.find(({ code }) => code === target);
  if (to === undefined) throw unsupported(target);
  if (source.targets.includes(target)) return source.code !== target;
  throw invalid(`${to.name} (${to.code}) is not available as a target language from ${source.name} (${source.code})`);
}

const names = new Intl.DisplayNames(['en'], { type: 'language', fallback: 'code' });

/** English name of a language: "German" of "de". */
export function nameOf(code: string): string {
  try {
    return names.of(code) ?? code;
  } catch {
    return code; // not a language tag
  }
}

export function unsupported(code: string): ServerError {
  return invalid(`${shorten(code)} is not supported`);
}

export function invalid(message: string): ServerError {
  return new ServerError('INVALID_REQUEST', message);
}

function missing(name: string): ServerError {
  return invalid(`Invalid request: missing ${name} parameter`);
}
