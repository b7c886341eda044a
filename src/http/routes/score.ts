import type { App, AppDeps } from '../deps.js';
import { type ModelTable, modelFor } from '../model-table.js';
import { ErrorReply, ScoreBody, ScoreReply } from '../schemas.js';
import { readInputs } from '../score-input.js';
import { writeReply } from '../score-reply.js';
import { runScore } from '../score-run.js';
import { scoreSettings } from '../score-settings.js';
import { sendTiming } from '../timing.js';
import { tokenizerOf } from '../tokenizers.js';

/** `POST /v1/score`: parse -> tokenise -> engine -> reply. */
export function scoreRoutes(app: App, deps: AppDeps, models: ModelTable): void {
  const { config, admission, tokenizers } = deps;
  app.post(
    '/v1/score',
    {
      schema: {
        summary: 'Log-probability and ponder cost of texts, per token',
        tags: ['score'],
        body: ScoreBody,
        response: { 200: ScoreReply, '4xx': ErrorReply, '5xx': ErrorReply },
      },
      onRequest: async (request) => admission.admitBody(request),
    },
    async (request, reply) => {
      const { body, exit } = request;
      const model = modelFor('score', models, body.model);
      const settings = scoreSettings(body, model, config);
      const inputs = readInputs(body.input, { ...config, vocabularySize: model.vocabularySize });
      exit.hold(admission.takeRequest());

      const { reply: summary, scored } = await runScore(deps, exit, { model, inputs, settings });
      sendTiming(reply, summary.timing);
      const tokenizer = tokenizerOf(tokenizers, model);
      const text = writeReply(summary, settings.returnTokens ? scored : null, settings.topLogprobs, tokenizer);
      // The text is the JSON of the schema's type already; fastify passes texts and streams on as they are.
      return reply.type('application/json; charset=utf-8').send(text as unknown as ScoreReply);
    },
  );
}
