/** LibreTranslate's requests and replies, for the documentation: what is wrong with a request is said in LibreTranslate's own words. */
import { Type } from '@fastify/type-provider-typebox';
import { BEAM_MAX } from '../config.js';

const Key = Type.Optional(
  Type.String({ description: 'The API key, where the server wants one; Authorization: Bearer KEY does as well.' }),
);

export const LibreTranslateBody = Type.Object(
  {
    q: Type.Union([Type.String(), Type.Array(Type.String())], { description: 'A text or, in JSON, a list of texts.' }),
    source: Type.String({ description: 'Language of the text, or auto.' }),
    target: Type.String({ description: 'Language to translate into.' }),
    format: Type.Optional(Type.String({ enum: ['text', 'html'], default: 'text' })),
    alternatives: Type.Optional(
      Type.Integer({ minimum: 0, maximum: BEAM_MAX - 1, default: 0, description: 'Further translations to return.' }),
    ),
    api_key: Key,
    apiKey: Key,
  },
  {
    examples: [
      { q: 'Hello world!', source: 'en', target: 'de' },
      { q: ['Good morning.', 'How are you?'], source: 'auto', target: 'de', format: 'text', api_key: '' },
      { q: '<p>The house is small.</p>', source: 'en', target: 'de', format: 'html', alternatives: 2 },
    ],
  },
);

/** The same by query string, where one text fits. */
export const LibreTranslateQuery = Type.Object({
  q: Type.Optional(Type.String({ description: 'A text. Goes before that of a form; a JSON body counts alone.' })),
  source: Type.Optional(Type.String({ description: 'Language of the text, or auto.' })),
  target: Type.Optional(Type.String({ description: 'Language to translate into.' })),
  format: Type.Optional(Type.String({ enum: ['text', 'html'] })),
  alternatives: Type.Optional(Type.Integer({ minimum: 0, maximum: BEAM_MAX - 1 })),
  api_key: Key,
  apiKey: Key,
});
export const DetectQuery = Type.Object({ q: LibreTranslateQuery.properties.q, api_key: Key, apiKey: Key });

const Detection = Type.Object({
  confidence: Type.Number({ minimum: 0, maximum: 100 }),
  language: Type.String(),
});

export const LibreTranslateReply = Type.Object({
  translatedText: Type.Union([Type.String(), Type.Array(Type.String())], { description: 'Of the type of q.' }),
  detectedLanguage: Type.Optional(
    Type.Union([Detection, Type.Array(Detection)], { description: 'When source is auto; a list when q is one.' }),
  ),
  alternatives: Type.Optional(
    Type.Union([Type.Array(Type.String()), Type.Array(Type.Array(Type.String()))], {
      description: 'When alternatives is above 0; a list of lists when q is a list.',
    }),
  ),
});

export const DetectBody = Type.Object(
  {
    q: Type.Union([Type.String(), Type.Array(Type.String())], { description: 'A text, or texts in one language.' }),
    api_key: Key,
  },
  { examples: [{ q: 'What language is this?' }, { q: ['Ein Satz.', 'Und noch einer.'], api_key: '' }] },
);
export const DetectReply = Type.Array(Detection, { description: 'Best first.' });

export const Languages = Type.Array(
  Type.Object({ code: Type.String(), name: Type.String(), targets: Type.Array(Type.String()) }),
);

const Named = Type.Object({ code: Type.String(), name: Type.String() });

export const FrontendSettings = Type.Object({
  charLimit: Type.Integer({ description: 'Bytes of one text; characters are at most as many.' }),
  frontendTimeout: Type.Integer({ description: 'Milliseconds a page waits for the next key.' }),
  apiKeys: Type.Boolean(),
  keyRequired: Type.Boolean(),
  suggestions: Type.Boolean(),
  filesTranslation: Type.Boolean(),
  supportedFilesFormat: Type.Array(Type.String()),
  language: Type.Object({ source: Named, target: Named }),
});

export const Health = Type.Object({ status: Type.Literal('ok') });

export const PlainError = Type.Object({ error: Type.String({ description: 'What is wrong and what to do.' }) });
