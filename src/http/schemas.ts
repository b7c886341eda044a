/**
 * What requests and replies look like: these objects validate, make the TypeScript types and make the OpenAPI document.
 * Unknown fields are refused and nothing is coerced: `"max_steps": "3"` is a mistake of the caller, not a 3.
 */
import { type Static, type TSchema, Type } from '@fastify/type-provider-typebox';
import { ERRORS } from '../errors.js';

export const TOP_LOGPROBS_MAX = 20;

export const Nullable = <T extends TSchema>(schema: T, options: { description?: string } = {}) =>
  Type.Union([schema, Type.Null()], options);

/** What `input` of a scoring request may be, in the words of errors. */
export const SCORE_INPUT_ALLOWED = 'a text, a list of texts, a list of token ids, or a list of lists of token ids';

/** What one position may spend. */
export const budgetFields = {
  max_steps: Type.Optional(
    Type.Integer({
      minimum: 1,
      description:
        "Step at which every position still running is stopped; default and upper limit: the model's maximum.",
    }),
  ),
  min_steps: Type.Optional(
    Type.Integer({ minimum: 1, description: 'No position halts before this step; default 1, at most max_steps.' }),
  ),
  threshold: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      maximum: 1,
      description: "Sum of halting probabilities above which a position halts; default: the model's own.",
    }),
  ),
};

export const Quality = Type.Optional(
  Type.String({
    enum: ['full', 'adaptive'],
    default: 'full',
    description:
      'adaptive: under pressure the server may lower max_steps to meet its latency target (--latency-target-ms), and says so in the reply.',
  }),
);

/** In the reply to a request of quality adaptive. */
export const GrantedQuality = Type.Optional(
  Type.Object(
    {
      max_steps: Type.Integer({ description: 'The steps that were allowed.' }),
      lowered: Type.Boolean({ description: 'Fewer than the request allowed.' }),
    },
    { additionalProperties: false, description: 'Only for requests of quality adaptive.' },
  ),
);

export const DeadlineMs = Type.Optional(
  Type.Integer({ minimum: 1, description: 'The request is given up with 504 when it takes longer than this.' }),
);

/** Only for models with attention spans. */
export const spanFields = {
  span_max: Type.Optional(
    Type.Integer({
      minimum: 0,
      description:
        "Caps the span of every head at this many keys; the model's ramp comes on top. Models with attention spans.",
    }),
  ),
  span_cost: Type.Optional(
    Type.Boolean({
      default: false,
      description: 'Also scores the text without span_max, and says what the cap cost in log-probability.',
    }),
  ),
  stream: Type.Optional(
    Type.Boolean({
      default: false,
      description: 'Server-sent events, one for each block of a text. Models with attention spans.',
    }),
  ),
  session: Type.Optional(
    Type.String({
      description:
        'Goes on where the session of this name stopped, and stays open; 1 to 128 letters, digits and . _ : - of your choice.',
    }),
  ),
  session_begin: Type.Optional(
    Type.Boolean({ default: false, description: 'Opens the session; the text is the beginning of its stream.' }),
  ),
  session_end: Type.Optional(Type.Boolean({ default: false, description: 'Closes the session after this text.' })),
};

export const ScoreBody = Type.Object(
  {
    input: Type.Union(
      [Type.String(), Type.Array(Type.String()), Type.Array(Type.Integer()), Type.Array(Type.Array(Type.Integer()))],
      { description: 'A text, a list of texts, a list of token ids, or a list of lists of token ids.' },
    ),
    model: Type.Optional(
      Type.String({
        description:
          'Name of the model; may be left out when only one that scores is served. One with attention spans is named wherever another scores.',
      }),
    ),
    ...budgetFields,
    ...spanFields,
    quality: Quality,
    deadline_ms: DeadlineMs,
    top_logprobs: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: TOP_LOGPROBS_MAX,
        default: 0,
        description: 'Number of most probable tokens to return beside each token.',
      }),
    ),
    stride: Type.Optional(
      Type.Integer({
        minimum: 1,
        description:
          'Tokens between the beginnings of two windows of a text longer than the context; default: half of it.',
      }),
    ),
    return_tokens: Type.Optional(
      Type.Boolean({ default: true, description: 'false leaves out the list of tokens and keeps the sums.' }),
    ),
  },
  {
    additionalProperties: false,
    examples: [
      { input: 'In the beginning was the word.' },
      { input: ['A first text.', 'A second one.'], max_steps: 3, return_tokens: false },
      { input: [5, 6, 7, 8], threshold: 0.5, top_logprobs: 2 },
      { input: 'Sooner rather than deeper.', quality: 'adaptive' },
      { input: [[5, 6], [7]], min_steps: 2, deadline_ms: 60000, stride: 4 },
      { input: 'A text of any length.', model: 'span-lm-bytes', span_max: 64, span_cost: true, return_tokens: false },
      { input: 'In blocks.', model: 'span-lm-bytes', stream: true },
      { input: 'Chapter one.', model: 'span-lm-bytes', session: 'draft', session_begin: true },
    ],
  },
);
export type ScoreBody = Static<typeof ScoreBody>;

export const TopLogprob = Type.Object(
  { id: Type.Integer(), text: Type.String(), logprob: Type.Number({ description: 'Nats.' }) },
  { additionalProperties: false },
);

const ScoredToken = Type.Object(
  {
    id: Type.Integer(),
    text: Type.String({ description: 'U+FFFD stands for bytes that are only part of a character.' }),
    offset: Type.Integer({
      description: 'Where the token begins in the text (the decoded text for token ids), in UTF-16 code units.',
    }),
    logprob: Type.Number({ description: 'Nats.' }),
    depth: Type.Integer({ description: 'Steps N of the position that predicts the token.' }),
    remainder: Type.Number({ description: 'Remainder R of that position.' }),
    top_logprobs: Type.Optional(Type.Array(TopLogprob, { description: 'Best first.' })),
  },
  { additionalProperties: false },
);

export const ScoreResult = Type.Object(
  {
    index: Type.Integer({ description: 'Place of the text in the input.' }),
    logprob: Type.Number({ description: 'Sum over all tokens, in nats.' }),
    bytes: Type.Integer({ description: 'Length of the text in UTF-8.' }),
    bits_per_byte: Nullable(Type.Number({ description: 'null when the tokens decode to no text.' })),
    perplexity: Type.Number({ description: 'exp(-logprob / tokens)' }),
    windows: Type.Integer({ description: 'Windows the text was cut into.' }),
    ponder: Type.Object(
      {
        mean: Type.Number({ description: 'Mean steps of the scored tokens.' }),
        max: Type.Integer(),
        cost: Type.Number({ description: 'Mean ponder cost N + R (Graves 2016).' }),
        histogram: Type.Array(Type.Integer(), { description: 'Tokens by steps; the index is the number of steps.' }),
      },
      { additionalProperties: false },
    ),
    tokens: Type.Optional(Type.Array(ScoredToken)),
  },
  { additionalProperties: false },
);
export type ScoreResult = Static<typeof ScoreResult>;

const Usage = Type.Object(
  {
    tokens: Type.Integer({ description: 'Tokens scored.' }),
    position_steps: Type.Integer({ description: 'Steps run over all positions, context of windows included.' }),
    position_steps_fixed: Type.Integer({ description: 'What a model without halting would have run.' }),
  },
  { additionalProperties: false },
);
export type Usage = Static<typeof Usage>;

export const timingFields = {
  queue_ms: Type.Number(),
  tokenize_ms: Type.Number(),
  compute_ms: Type.Number(),
  total_ms: Type.Number({ description: 'From the arrival of the headers until the reply was ready to be written.' }),
};
export const TIMING = { additionalProperties: false, description: 'Also sent as the Server-Timing header.' };

export const Timing = Type.Object(timingFields, TIMING);
export type Timing = Static<typeof Timing>;

export const ScoreReply = Type.Object(
  { model: Type.String(), results: Type.Array(ScoreResult), usage: Usage, timing: Timing, quality: GrantedQuality },
  { additionalProperties: false },
);
export type ScoreReply = Static<typeof ScoreReply>;

const codes = Object.keys(ERRORS);

export const ErrorReply = Type.Object({
  error: Type.Object({
    code: Type.String({ enum: codes, description: 'Match on this.' }),
    message: Type.String({ description: 'What is wrong and what to do.' }),
    type: Type.String(),
    param: Nullable(Type.String({ description: 'The field at fault.' })),
  }),
});

const ModelSpan = Type.Object(
  {
    kind: Type.String({ enum: ['adaptive', 'dynamic'], description: 'One span a head, or one a token and head.' }),
    span_max: Type.Integer({ description: 'Keys that a head could look back at most (S).' }),
    ramp: Type.Integer({ description: 'Keys of the ramp of the mask (R), which come on top of a span.' }),
    mean: Type.Number({ description: 'Mean keys of all heads; for the dynamic kind the most they could be.' }),
    keys: Type.Array(Type.Array(Type.Integer()), { description: 'Keys of each layer and head: ceil(z + R).' }),
    pools: Type.Array(Type.Array(Type.Object({ heads: Type.Array(Type.Integer()), keys: Type.Integer() })), {
      description: 'Heads of each layer that share keys as long as the longest span of theirs.',
    }),
    block_tokens: Type.Integer({ description: 'Tokens of one step of a text.' }),
    cache_bytes: Type.Integer({ description: 'What one text or session holds, whatever its length.' }),
  },
  { description: 'Of a model whose heads have learned how far to look back.' },
);

const modelFields = {
  id: Type.String(),
  object: Type.Literal('model'),
  created: Type.Integer({ description: 'Unix seconds.' }),
  owned_by: Type.String(),
  max_model_len: Nullable(
    Type.Integer({
      description: 'Positions of one window, <s> included; of one sentence, </s> included, in a translation.',
    }),
    { description: 'null: a text of any length.' },
  ),
  family: Type.String(),
  task: Type.String(),
  language: Type.String({ description: 'Of the text it scores, or translates from.' }),
  target_language: Nullable(Type.String({ description: 'What it translates into; null for other tasks.' })),
  precision: Type.String(),
  vocabulary_size: Type.Integer(),
  parameters: Type.Integer(),
  halting: Type.Optional(
    Type.Object(
      {
        max_steps: Type.Integer({ description: 'The depth bound T.' }),
        threshold: Type.Number({ description: 'Default of the field threshold.' }),
      },
      { description: 'Of a model with adaptive depth.' },
    ),
  ),
  limits: Type.Record(Type.String(), Type.Integer(), {
    description: 'Upper limits of fields of a request, by field, and of what one request may hold.',
  }),
  span: Type.Optional(ModelSpan),
};

export const ModelSummary = Type.Object(modelFields);
export const ModelList = Type.Object({ object: Type.Literal('list'), data: Type.Array(ModelSummary) });

export const ModelDetail = Type.Object({
  ...modelFields,
  provenance: Type.Record(Type.String(), Type.Unknown(), { description: 'Verbatim from the package.' }),
  quality: Type.Record(Type.String(), Type.Unknown(), { description: 'Verbatim from the package.' }),
});
export type ModelDetail = Static<typeof ModelDetail>;

export const ModelParams = Type.Object({
  id: Type.String({ description: 'Name of the model.', examples: ['ut-lm-en'] }),
});

export const Info = Type.Object({
  name: Type.String(),
  version: Type.String(),
  state: Type.String(),
  device: Type.String(),
  device_reason: Type.String({ description: 'Why that device, or why no GPU.' }),
  device_warnings: Type.Array(Type.String(), {
    description: 'Where the CPU serves what a GPU was expected to serve, and why.',
  }),
  device_memory: Type.Union([Type.Object({ used_bytes: Type.Integer(), total_bytes: Type.Integer() }), Type.Null()], {
    description: 'Memory of the GPU, whoever uses it; null on the CPU.',
  }),
  backend: Type.String(),
  threads: Type.Integer(),
  engine_restarts: Type.Integer(),
  models: Type.Array(Type.String()),
  refused_models: Type.Array(Type.Object({ id: Type.String(), reason: Type.String() })),
  options: Type.Record(Type.String(), Type.Unknown(), { description: 'The options in force.' }),
});

export const Live = Type.Object({ status: Type.Literal('live') });
export const Ready = Type.Object({ status: Type.Literal('ready'), models: Type.Array(Type.String()) });
