import {
  DetokenizeBody,
  DetokenizeReply,
  TokenizeBody,
  TokenizeReply,
  TokenizerInfo,
  TokenizerQuery,
} from '../completion-schemas.js';
import type { App, AppDeps } from '../deps.js';
import { contextOf, type ModelTable, modelFor } from '../model-table.js';
import { ErrorReply } from '../schemas.js';
import { checkText, readInputs } from '../score-input.js';
import { decodeWithSpecials, encodeWithSpecials, specialTokens } from '../special-tokens.js';
import { tokenizerOf } from '../tokenizers.js';

const tags = ['OpenAI'];
/** Texts to translate are split into sentences first: a count of their tokens would not say what fits. */
const ABILITY = 'tokenize';
const errors = { '4xx': ErrorReply, '5xx': ErrorReply };

/** vLLM's tokenizer paths, which lm-evaluation-harness uses when it is given no tokenizer of its own. */
export function tokenizeRoutes(app: App, deps: AppDeps, models: ModelTable): void {
  const { config, admission, tokenizers } = deps;
  const onRequest = async (request: Parameters<typeof admission.admitBody>[0]): Promise<void> =>
    admission.admitBody(request);

  app.post(
    '/tokenize',
    {
      schema: { summary: 'Text to token ids', tags, body: TokenizeBody, response: { 200: TokenizeReply, ...errors } },
      onRequest,
    },
    async ({ body, exit }) => {
      const model = modelFor('score', models, body.model, ABILITY);
      const tokenizer = tokenizerOf(tokenizers, model);
      checkText(body.prompt, 'prompt', config);
      exit.hold(admission.takeRequest());
      const specials = specialTokens(tokenizer, model);
      const tokens = await encodeWithSpecials(body.prompt, tokenizer, specials);
      if (body.add_special_tokens !== false && specials.bos !== null) tokens.unshift(model.bosId);
      return { tokens, count: tokens.length, max_model_len: contextOf(model) };
    },
  );
  app.post(
    '/detokenize',
    {
      schema: {
        summary: 'Token ids to text',
        tags,
        body: DetokenizeBody,
        response: { 200: DetokenizeReply, ...errors },
      },
      onRequest,
    },
    async ({ body, exit }) => {
      const model = modelFor('score', models, body.model, ABILITY);
      const tokenizer = tokenizerOf(tokenizers, model);
      if (body.tokens.length === 0) return { prompt: '' };
      readInputs(body.tokens, { ...config, vocabularySize: model.vocabularySize }, 'tokens');
      exit.hold(admission.takeRequest());
      return { prompt: decodeWithSpecials(body.tokens, tokenizer, specialTokens(tokenizer, model)) };
    },
  );
  app.get(
    '/tokenizer_info',
    {
      schema: {
        summary: 'What the tokenizer calls the start and the end of a text',
        tags,
        querystring: TokenizerQuery,
        response: { 200: TokenizerInfo, ...errors },
      },
    },
    async ({ query }) => {
      const model = modelFor('score', models, query.model, ABILITY);
      const tokenizer = tokenizerOf(tokenizers, model);
      const { bos, eos } = specialTokens(tokenizer, model);
      return {
        tokenizer_class: 'ponder-serve',
        bos_token: bos,
        eos_token: eos,
        vocab_size: model.vocabularySize,
        model_max_length: contextOf(model),
        add_bos_token: bos !== null,
      };
    },
  );
}
