/** Requests and replies of OpenAI's completions. Fields that are not listed are ignored, as OpenAI's servers do. */
import { type Static, Type } from '@fastify/type-provider-typebox';
import {
  budgetFields,
  DeadlineMs,
  GrantedQuality,
  Nullable,
  Quality,
  spanFields,
  TOP_LOGPROBS_MAX,
} from './schemas.js';

/** What `prompt` may be, in the words of errors. */
export const PROMPT_ALLOWED = 'a text, a list of texts, a list of token ids, or a list of lists of token ids';
export const CHOICES_MAX = 16;
export const MAX_TOKENS_DEFAULT = 16;
export const STOPS_MAX = 16;
export const STOP_UNITS_MAX = 1024;

export const CompletionBody = Type.Object(
  {
    prompt: Type.Union(
      [Type.String(), Type.Array(Type.String()), Type.Array(Type.Integer()), Type.Array(Type.Array(Type.Integer()))],
      { description: 'A text, a list of texts, a list of token ids, or a list of lists of token ids.' },
    ),
    model: Type.Optional(
      Type.String({ description: 'Name of the model; may be left out when only one that scores is served.' }),
    ),
    max_tokens: Type.Optional(
      Type.Integer({
        minimum: 0,
        default: MAX_TOKENS_DEFAULT,
        description: 'New tokens at most; 0 with echo scores the prompt only.',
      }),
    ),
    echo: Type.Optional(Type.Boolean({ default: false, description: 'The choice begins with the prompt.' })),
    logprobs: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: TOP_LOGPROBS_MAX,
        description: 'Log-probability of each token and of so many best candidates; left out, none.',
      }),
    ),
    temperature: Type.Optional(
      Type.Number({ minimum: 0, maximum: 2, default: 1, description: '0 takes the best token each time.' }),
    ),
    top_p: Type.Optional(
      Type.Number({
        exclusiveMinimum: 0,
        maximum: 1,
        default: 1,
        description: 'Drawn from the fewest best tokens whose probabilities sum to this.',
      }),
    ),
    seed: Type.Optional(
      Type.Integer({
        minimum: Number.MIN_SAFE_INTEGER,
        maximum: Number.MAX_SAFE_INTEGER,
        description: 'The same seed and request give the same text, whatever else is served.',
      }),
    ),
    stop: Type.Optional(
      Type.Union([Type.String(), Type.Array(Type.String())], {
        description: `A text, or up to ${STOPS_MAX}, before which the choice ends.`,
      }),
    ),
    n: Type.Optional(
      Type.Integer({ minimum: 1, maximum: CHOICES_MAX, default: 1, description: 'Choices for each prompt.' }),
    ),
    stream: Type.Optional(Type.Boolean({ default: false, description: 'Server-sent events, as the text comes.' })),
    stream_options: Type.Optional(
      Type.Object(
        { include_usage: Type.Optional(Type.Boolean({ description: 'A last event with usage and ponder.' })) },
        { description: 'Only with stream.' },
      ),
    ),
    ignore_eos: Type.Optional(Type.Boolean({ default: false, description: 'The end of text does not end a choice.' })),
    ...budgetFields,
    span_max: spanFields.span_max,
    quality: Quality,
    deadline_ms: DeadlineMs,
  },
  {
    examples: [
      { prompt: 'ab', max_tokens: 4 },
      { prompt: [[97, 98], [99]], max_tokens: 1, echo: true, logprobs: 1, temperature: 0, seed: 1234 },
      { prompt: ['ab', 'c'], n: 2, seed: 7, temperature: 0.8, top_p: 0.9, stop: ['B'], max_steps: 3 },
      { prompt: 'abc', max_tokens: 5, stream: true, stream_options: { include_usage: true } },
    ],
  },
);
export type CompletionBody = Static<typeof CompletionBody>;

const Logprobs = Type.Object({
  tokens: Type.Array(Type.String()),
  token_logprobs: Type.Array(Nullable(Type.Number()), { description: 'Nats; null: nothing predicts the first token.' }),
  top_logprobs: Type.Array(Nullable(Type.Record(Type.String(), Type.Number()))),
  text_offset: Type.Array(Type.Integer(), { description: 'In code points.' }),
  depths: Type.Optional(
    Type.Array(Nullable(Type.Integer()), {
      description: 'Steps of the position that predicts the token; models with adaptive depth.',
    }),
  ),
});

const Usage = Type.Object({
  prompt_tokens: Type.Integer(),
  completion_tokens: Type.Integer(),
  total_tokens: Type.Integer(),
});
export type CompletionUsage = Static<typeof Usage>;

const Ponder = Type.Object(
  {
    mean: Type.Number({
      description: 'Mean steps of the tokens that have a log-probability, prompts included if scored.',
    }),
    max: Type.Integer(),
    histogram: Type.Array(Type.Integer(), { description: 'Tokens by steps; the index is the number of steps.' }),
    position_steps: Type.Integer({ description: 'Steps run over all positions, the prompts included.' }),
    position_steps_fixed: Type.Integer({ description: 'What a model without halting would have run.' }),
  },
  { description: 'What the request cost in steps; models with adaptive depth.' },
);
export type CompletionPonder = Static<typeof Ponder>;

export const CompletionReply = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer({ description: 'Unix seconds.' }),
  model: Type.String(),
  choices: Type.Array(
    Type.Object({
      index: Type.Integer(),
      text: Type.String(),
      logprobs: Nullable(Logprobs),
      finish_reason: Type.String({ enum: ['stop', 'length'] }),
    }),
  ),
  usage: Usage,
  ponder: Type.Optional(Ponder),
  quality: GrantedQuality,
});

export const TokenizeBody = Type.Object(
  {
    prompt: Type.String({ description: 'The literal names of the special tokens stand for these.' }),
    model: Type.Optional(Type.String()),
    add_special_tokens: Type.Optional(Type.Boolean({ default: true, description: 'Begins with the start of text.' })),
  },
  { examples: [{ prompt: 'Hello.' }, { prompt: 'Hello.', add_special_tokens: false }] },
);
export const TokenizeReply = Type.Object({
  tokens: Type.Array(Type.Integer()),
  count: Type.Integer(),
  max_model_len: Nullable(Type.Integer(), { description: 'null: a text of any length.' }),
});

export const DetokenizeBody = Type.Object(
  { tokens: Type.Array(Type.Integer()), model: Type.Optional(Type.String()) },
  { examples: [{ tokens: [72, 105] }, { tokens: [] }] },
);
export const DetokenizeReply = Type.Object({ prompt: Type.String() });

export const TokenizerQuery = Type.Object({ model: Type.Optional(Type.String()) });
export const TokenizerInfo = Type.Object({
  tokenizer_class: Type.String(),
  bos_token: Nullable(Type.String()),
  eos_token: Type.String(),
  vocab_size: Type.Integer(),
  model_max_length: Nullable(Type.Integer(), { description: 'null: a text of any length.' }),
  add_bos_token: Type.Boolean({ description: 'The server begins every sequence with bos_token by itself.' }),
});
