/** Replies about models with attention spans, as `schemas.ts` has those about others. */
import { type Static, Type } from '@fastify/type-provider-typebox';
import { Nullable, Timing, TopLogprob } from './schemas.js';

const STRICT = { additionalProperties: false };

const SpanToken = Type.Object(
  {
    id: Type.Integer(),
    text: Type.String({ description: 'U+FFFD stands for bytes that are only part of a character.' }),
    offset: Type.Integer({ description: 'Where the token begins in the text, in UTF-16 code units.' }),
    logprob: Type.Number({ description: 'Nats.' }),
    span: Type.Optional(
      Type.Number({ description: 'Mean keys of all heads at the position that predicts it; dynamic spans only.' }),
    ),
    top_logprobs: Type.Optional(Type.Array(TopLogprob, { description: 'Best first.' })),
  },
  STRICT,
);

const SpanCost = Type.Object(
  {
    logprob: Type.Number({ description: 'Log-probability without the cap less that with it, in nats.' }),
    bits_per_byte: Nullable(Type.Number({ description: 'The same per byte of the text, in bits.' })),
  },
  { ...STRICT, description: 'What span_max cost; only where span_cost was asked for.' },
);

export const SpanScoreResult = Type.Object(
  {
    index: Type.Integer({ description: 'Place of the text in the input.' }),
    logprob: Type.Number({ description: 'Sum over all tokens, in nats.' }),
    bytes: Type.Integer({ description: 'Length of the text in UTF-8.' }),
    bits_per_byte: Nullable(Type.Number({ description: 'null when the tokens decode to no text.' })),
    perplexity: Type.Number({ description: 'exp(-logprob / tokens)' }),
    span: Type.Object(
      {
        mean: Type.Number({ description: 'Mean keys of all heads and tokens, ramp included.' }),
        cost: Type.Optional(SpanCost),
      },
      STRICT,
    ),
    tokens: Type.Optional(Type.Array(SpanToken)),
  },
  STRICT,
);
export type SpanScoreResult = Static<typeof SpanScoreResult>;

const SpanUsage = Type.Object(
  {
    tokens: Type.Integer({ description: 'Tokens scored.' }),
    keys: Type.Integer({ description: 'Keys that their heads looked at, over all layers and heads.' }),
    keys_computed: Type.Integer({ description: 'Keys computed for that: heads share pools, and tokens a block.' }),
    keys_full: Type.Integer({ description: 'Keys that heads of full span would have looked at.' }),
  },
  { ...STRICT, description: 'With span_cost, of both scorings.' },
);
export type SpanUsage = Static<typeof SpanUsage>;

const SessionState = Type.Object(
  {
    key: Type.String(),
    tokens: Type.Integer({ description: 'Tokens of its stream so far, these among them.' }),
    open: Type.Boolean({ description: 'Whether it can be continued.' }),
  },
  STRICT,
);

export const SpanScoreReply = Type.Object(
  {
    model: Type.String(),
    results: Type.Array(SpanScoreResult),
    session: Type.Optional(SessionState),
    usage: SpanUsage,
    timing: Timing,
  },
  STRICT,
);
export type SpanScoreReply = Static<typeof SpanScoreReply>;

export const SessionParams = Type.Object({ key: Type.String({ description: 'Name of the session.' }) });
export const SessionQuery = Type.Object(
  {
    model: Type.Optional(
      Type.String({ description: 'Name of the model; may be left out when one with attention spans is served.' }),
    ),
  },
  STRICT,
);
export const SessionEnded = Type.Object({ model: Type.String(), key: Type.String(), ended: Type.Literal(true) });
