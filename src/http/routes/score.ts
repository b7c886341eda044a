import { Type } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { App, AppDeps } from '../deps.js';
import { type ModelTable, modelFor } from '../model-table.js';
import { ErrorReply, ScoreBody, ScoreReply } from '../schemas.js';
import { inputLimits, readInputs } from '../score-input.js';
import { writeReply } from '../score-reply.js';
import { runScore } from '../score-run.js';
import { scoreSettings } from '../score-settings.js';
import { sendEvents } from '../send-events.js';
import { SpanEvents } from '../span-events.js';
import { writeSpanReply } from '../span-reply.js';
import { runSpanScore, type SpanOrder } from '../span-run.js';
import { SpanScoreReply } from '../span-schemas.js';
import { spanSettings } from '../span-settings.js';
import { sendTiming } from '../timing.js';
import { tokenizerOf } from '../tokenizers.js';

/** `POST /v1/score`: parse -> tokenise -> engine -> reply; a model with attention spans can reply as events. */
export function scoreRoutes(app: App, deps: AppDeps, models: ModelTable): void {
  const { config, admission, tokenizers } = deps;
  app.post(
    '/v1/score',
    {
      schema: {
        summary: 'Log-probability and ponder cost or spans of texts, per token; long ones as a stream on request',
        tags: ['score'],
        body: ScoreBody,
        response: { 200: Type.Union([ScoreReply, SpanScoreReply]), '4xx': ErrorReply, '5xx': ErrorReply },
      },
      onRequest: async (request) => admission.admitBody(request),
    },
    async (request, reply) => {
      const { body, exit } = request;
      const model = modelFor('score', models, body.model);
      if (model.span !== undefined) return scoreSpans(request, reply, deps, { ...model, span: model.span });
      const settings = scoreSettings(body, model, config);
      const inputs = readInputs(body.input, inputLimits(model, config));
      exit.hold(admission.takeRequest());

      const { reply: summary, scored } = await runScore(deps, exit, { model, inputs, settings });
      sendTiming(reply, summary.timing);
      const tokenizer = tokenizerOf(tokenizers, model);
      const text = await writeReply(summary, settings.returnTokens ? scored : null, settings.topLogprobs, tokenizer);
      // The text is the JSON of the schema's type already; fastify passes texts and streams on as they are.
      return reply.type('application/json; charset=utf-8').send(text as unknown as ScoreReply);
    },
  );
}

/** A text of any length, read block by block; settings are refused before anything is held. */
async function scoreSpans(
  request: FastifyRequest<{ Body: ScoreBody }>,
  reply: FastifyReply,
  deps: AppDeps,
  model: SpanOrder['model'],
): Promise<FastifyReply> {
  const { body, exit } = request;
  const settings = spanSettings(body, model, deps.config, request);
  const inputs = readInputs(body.input, inputLimits(model, deps.config));
  exit.hold(deps.admission.takeRequest());

  const order = { model, inputs, settings, sessionName: body.session };
  const { topLogprobs, returnTokens } = settings;
  const tokenizer = tokenizerOf(deps.tokenizers, model);
  if (body.stream === true) {
    const events = new SpanEvents(tokenizer, topLogprobs, returnTokens);
    const work = runSpanScore(deps, exit, { ...order, progress: events.block });
    return sendEvents(
      request,
      reply,
      deps,
      events,
      work.then((scoring) => events.finish(scoring.reply)),
    );
  }
  const scoring = await runSpanScore(deps, exit, order);
  sendTiming(reply, scoring.reply.timing);
  const text = await writeSpanReply(scoring, returnTokens, topLogprobs, tokenizer);
  return reply.type('application/json; charset=utf-8').send(text);
}
