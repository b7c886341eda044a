import type { FastifyRequest, FastifySchema } from 'fastify';
import type { ModelDescription } from '../../models/description.js';
import { readDeadline } from '../budget.js';
import type { App, AppDeps } from '../deps.js';
import { parseJsonBody, parseUtf8 } from '../json-body.js';
import type { Detection } from '../language-detector.js';
import {
  checkPair,
  invalid,
  type Language,
  languagesOf,
  nameOf,
  parametersOf,
  type TranslateParameters,
  textsOf,
  translateParameters,
  unsupported,
} from '../libretranslate.js';
import {
  DetectBody,
  DetectQuery,
  DetectReply,
  FrontendSettings,
  Health,
  Languages,
  LibreTranslateBody,
  LibreTranslateQuery,
  LibreTranslateReply,
  PlainError,
} from '../libretranslate-schemas.js';
import { type ModelTable, translationModel } from '../model-table.js';
import { runTranslation } from '../translate-run.js';
import { translateInputs, translateSettings } from '../translate-settings.js';

const tags = ['LibreTranslate'];
const errors = { '4xx': PlainError, '5xx': PlainError };
const consumes = ['application/json', 'application/x-www-form-urlencoded'];
/** The schema documents; `libretranslate.ts` checks, in LibreTranslate's words. */
const validatorCompiler = () => () => true;

/** LibreTranslate's contract at the same port. Registered as a plugin: its body parsers are for these paths alone. */
export async function libreTranslateRoutes(app: App, deps: AppDeps, models: ModelTable): Promise<void> {
  const { config, admission, detector } = deps;
  const languages = (): Language[] => languagesOf(models.served());
  const onRequest = async (request: FastifyRequest): Promise<void> => admission.admitBody(request);
  const post = (schema: FastifySchema) => ({ schema: { tags, consumes, ...schema }, onRequest, validatorCompiler });

  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async (request: FastifyRequest, body: Buffer) =>
    body.length === 0 ? undefined : parseJsonBody(request, body),
  );
  app.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'buffer' },
    async (_request: FastifyRequest, body: Buffer) => new URLSearchParams(parseUtf8(body)),
  );

  app.post(
    '/translate',
    post({
      summary: "Translation, in LibreTranslate's contract: JSON, form or query string",
      querystring: LibreTranslateQuery,
      body: LibreTranslateBody,
      response: { 200: LibreTranslateReply, ...errors },
    }),
    async (request) => translate(request, translateParameters(parametersOf(request)), deps, models),
  );
  app.post(
    '/detect',
    post({
      summary: 'Language of a text',
      querystring: DetectQuery,
      body: DetectBody,
      response: { 200: DetectReply, ...errors },
    }),
    async (request) => {
      const q = textsOf(parametersOf(request));
      return detector.detect([q].flat(), codesOf(languages()));
    },
  );
  app.get(
    '/languages',
    { schema: { tags, summary: 'Languages, and what each is translated into', response: { 200: Languages } } },
    async () => languages().map(({ targets, ...language }) => ({ ...language, targets: [...targets] })),
  );
  app.get(
    '/frontend/settings',
    { schema: { tags, summary: "What LibreTranslate's page asks for", response: { 200: FrontendSettings } } },
    async () => frontendSettings(models.served(), config.textBytesMax, deps.keys.required),
  );
  app.get(
    '/health',
    { schema: { tags, summary: 'Requests are served; 503 otherwise', response: { 200: Health, ...errors } } },
    async () => {
      admission.assertReady();
      return { status: 'ok' as const };
    },
  );
}

async function translate(
  { exit }: FastifyRequest,
  { q, source, target, format, alternatives }: TranslateParameters,
  deps: AppDeps,
  models: ModelTable,
): Promise<object> {
  const { config, admission, detector } = deps;
  const texts = [q].flat();
  const languages = languagesOf(models.served());
  const detected = source === 'auto' ? detector.detect(texts, codesOf(languages))[0] : undefined;
  const from = languages.find(({ code }) => code === (detected?.language ?? source));
  if (from === undefined) throw detected === undefined ? unsupported(source) : undetectable(detected, languages);
  const different = checkPair(languages, from, target);
  if (format !== 'text' && format !== 'html') throw invalid(`${format} format is not supported`);
  const inputs = translateInputs(typeof q === 'string' ? q : [...q], config, 'q');
  exit.hold(admission.takeRequest());

  let translated = texts.map((text) => ({ text, alternatives: [] as readonly { readonly text: string }[] }));
  if (different) {
    const model = translationModel(models, { source: from.code, target });
    const settings = translateSettings({ input: '', format, alternatives }, model);
    const order = { model, inputs, settings, deadlineMs: readDeadline(undefined, config) };
    translated = (await runTranslation(deps, exit, order)).reply.results;
  }
  const others = translated.map((result) => result.alternatives.map(({ text }) => text));
  const isList = typeof q !== 'string';
  return {
    translatedText: isList ? translated.map(({ text }) => text) : translated[0]?.text,
    ...(detected === undefined ? {} : { detectedLanguage: isList ? texts.map(() => detected) : detected }),
    ...(alternatives === 0 ? {} : { alternatives: isList ? others : others[0] }),
  };
}

/** Detection guesses among the languages served; without any, English as LibreTranslate does. */
function codesOf(languages: readonly Language[]): readonly [string, ...string[]] {
  const [first = 'en', ...others] = languages.map(({ code }) => code);
  return [first, ...others];
}

function undetectable({ language }: Detection, languages: readonly Language[]): Error {
  const served = languages.map(({ code }) => code).join(', ');
  return invalid(
    `${language} is not supported (the text looks like ${nameOf(language)}; if it isn't, set source to one of ${served})`,
  );
}

function frontendSettings(served: readonly ModelDescription[], charLimit: number, keyRequired: boolean) {
  const target = served.find(({ task }) => task === 'translate')?.targetLanguage ?? 'en';
  return {
    charLimit,
    frontendTimeout: 500,
    apiKeys: keyRequired,
    keyRequired,
    suggestions: false,
    filesTranslation: false,
    supportedFilesFormat: [],
    language: {
      source: { code: 'auto', name: 'Auto Detect' },
      target: { code: target, name: nameOf(target) },
    },
  };
}
