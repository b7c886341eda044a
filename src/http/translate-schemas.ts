/** Requests and replies of `POST /v1/translate`, as `schemas.ts` has those of scoring. */
import { type Static, Type } from '@fastify/type-provider-typebox';
import { BEAM_MAX } from '../config.js';
import { budgetFields, DeadlineMs, GrantedQuality, Quality, TIMING, timingFields } from './schemas.js';

export const LENGTH_PENALTY_MAX = 5;

/** What `input` of a translation may be, in the words of errors. */
export const TRANSLATE_INPUT_ALLOWED = 'a text or a list of texts';

const StackBudget = (stack: string) =>
  Type.Optional(
    Type.Object(budgetFields, { additionalProperties: false, description: `Overrides for the ${stack} alone.` }),
  );

export const TranslateBody = Type.Object(
  {
    input: Type.Union([Type.String(), Type.Array(Type.String())], {
      description: 'A text or a list of texts. What holds nothing to translate comes back as it is.',
    }),
    model: Type.Optional(
      Type.String({ description: 'Name of the model; may be left out when only one has the languages.' }),
    ),
    source: Type.Optional(Type.String({ description: "Language of the text, ISO 639-1; default: the model's." })),
    target: Type.Optional(Type.String({ description: "Language to translate into; default: the model's." })),
    beam: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: BEAM_MAX,
        description: 'Hypotheses kept while decoding; 1 is greedy. Default: alternatives + 1.',
      }),
    ),
    alternatives: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: BEAM_MAX - 1,
        default: 0,
        description: 'Further translations of each text to return; at most beam - 1.',
      }),
    ),
    length_penalty: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: LENGTH_PENALTY_MAX,
        default: 1,
        description:
          'A hypothesis scores its log-probability over length ^ length_penalty; larger favours longer ones.',
      }),
    ),
    max_new_tokens: Type.Optional(
      Type.Integer({
        minimum: 1,
        description: "Tokens of one sentence's translation at most; default: twice the source's and 16.",
      }),
    ),
    ...budgetFields,
    encoder: StackBudget('encoder'),
    decoder: StackBudget('decoder'),
    quality: Quality,
    deadline_ms: DeadlineMs,
    format: Type.Optional(
      Type.String({
        enum: ['text', 'html'],
        default: 'text',
        description: 'html: tags stay where they are, and only the text between them is translated.',
      }),
    ),
    return_tokens: Type.Optional(
      Type.Boolean({ default: true, description: 'false leaves out tokens and source_tokens and keeps the sums.' }),
    ),
    stream: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Server-sent events: each sentence when it is final, in order; README describes them.',
      }),
    ),
  },
  {
    additionalProperties: false,
    examples: [
      { input: 'The house is small.' },
      { input: ['Good morning.', 'How are you?'], source: 'en', target: 'de', return_tokens: false },
      { input: 'The house is small.', beam: 4, alternatives: 2, length_penalty: 0.8 },
      { input: 'The house is small.', max_steps: 4, encoder: { min_steps: 2 }, decoder: { threshold: 0.9 } },
      { input: '<p>The <b>house</b> is small.</p>', format: 'html', max_new_tokens: 60, deadline_ms: 60000 },
      { input: 'A first sentence. And a second one.', stream: true, quality: 'adaptive' },
    ],
  },
);
export type TranslateBody = Static<typeof TranslateBody>;

const Ponder = Type.Object(
  {
    mean: Type.Number({ description: 'Mean steps; 0 where nothing was translated.' }),
    max: Type.Integer(),
    histogram: Type.Array(Type.Integer(), { description: 'Positions by steps; the index is the number of steps.' }),
  },
  { additionalProperties: false },
);

const FinishReason = Type.String({
  enum: ['stop', 'length', 'repetition'],
  description:
    'Of the worst sentence: stop, length (max_new_tokens was reached) or repetition (it began to repeat itself).',
});

const TargetToken = Type.Object(
  {
    id: Type.Integer(),
    text: Type.String({ description: 'U+FFFD stands for bytes that are only part of a character.' }),
    logprob: Type.Number({ description: 'Nats.' }),
    depth: Type.Integer({ description: 'Steps of the decoder position that predicts the token.' }),
  },
  { additionalProperties: false },
);

const SourceToken = Type.Object(
  { id: Type.Integer(), text: Type.String(), depth: Type.Integer({ description: 'Steps of its encoder position.' }) },
  { additionalProperties: false },
);

export const TranslateResult = Type.Object(
  {
    index: Type.Integer({ description: 'Place of the text in the input.' }),
    text: Type.String(),
    alternatives: Type.Array(
      Type.Object(
        { text: Type.String(), score: Type.Number({ description: "Mean of its sentences' scores." }) },
        { additionalProperties: false },
      ),
      { description: 'Other translations of the whole text, best first.' },
    ),
    finish_reason: FinishReason,
    ponder: Type.Object({ encoder: Ponder, decoder: Ponder }, { additionalProperties: false }),
    tokens: Type.Optional(Type.Array(TargetToken)),
    source_tokens: Type.Optional(Type.Array(SourceToken)),
  },
  { additionalProperties: false },
);
export type TranslateResult = Static<typeof TranslateResult>;

const TranslateUsage = Type.Object(
  {
    source_tokens: Type.Integer({ description: 'Tokens of the texts, an end for each sentence included.' }),
    target_tokens: Type.Integer({ description: 'Tokens of their translations, ends included.' }),
    position_steps: Type.Integer({
      description: 'Steps run over all positions of both stacks, all hypotheses and attempts included.',
    }),
    position_steps_fixed: Type.Integer({ description: 'What a model without halting would have run.' }),
  },
  { additionalProperties: false },
);
export type TranslateUsage = Static<typeof TranslateUsage>;

const TranslateTiming = Type.Object(
  {
    ...timingFields,
    first_token_ms: Type.Number({
      description: 'From the arrival of the headers until the first token was decided; 0 when nothing was translated.',
    }),
  },
  TIMING,
);
export type TranslateTiming = Static<typeof TranslateTiming>;

export const TranslateReply = Type.Object(
  {
    model: Type.String(),
    results: Type.Array(TranslateResult),
    usage: TranslateUsage,
    timing: TranslateTiming,
    quality: GrantedQuality,
  },
  { additionalProperties: false },
);
export type TranslateReply = Static<typeof TranslateReply>;
