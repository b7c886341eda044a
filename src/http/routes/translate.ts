import { readDeadline } from '../budget.js';
import type { App, AppDeps } from '../deps.js';
import { type ModelTable, translationModel } from '../model-table.js';
import type { Quality } from '../quality.js';
import { ErrorReply } from '../schemas.js';
import { sendEvents } from '../send-events.js';
import { sendTiming } from '../timing.js';
import { TranslateEvents } from '../translate-events.js';
import { writeTranslateReply } from '../translate-reply.js';
import { runTranslation } from '../translate-run.js';
import { TranslateBody, TranslateReply } from '../translate-schemas.js';
import { translateInputs, translateSettings } from '../translate-settings.js';

/** `POST /v1/translate`: parse -> split and tokenise -> engine -> reply, at once or as events. */
export function translateRoutes(app: App, deps: AppDeps, models: ModelTable): void {
  const { config, admission } = deps;
  app.post(
    '/v1/translate',
    {
      schema: {
        summary: 'Translation and ponder cost of texts, per token; as a stream on request',
        tags: ['translate'],
        body: TranslateBody,
        response: { 200: TranslateReply, '4xx': ErrorReply, '5xx': ErrorReply },
      },
      onRequest: async (request) => admission.admitBody(request),
    },
    async (request, reply) => {
      const { body, exit } = request;
      const model = translationModel(models, body);
      const settings = translateSettings(body, model);
      const deadlineMs = readDeadline(body.deadline_ms, config);
      const inputs = translateInputs(body.input, config);
      exit.hold(admission.takeRequest());

      const quality: Quality = body.quality === 'adaptive' ? 'adaptive' : 'full';
      const order = { model, inputs, settings, deadlineMs, quality };
      const returnTokens = body.return_tokens ?? true;
      if (body.stream === true) {
        const events = new TranslateEvents(returnTokens);
        const work = runTranslation(deps, exit, { ...order, progress: events });
        return sendEvents(
          request,
          reply,
          deps,
          events,
          work.then((translation) => events.finish(translation.reply)),
        );
      }
      const translation = await runTranslation(deps, exit, order);
      sendTiming(reply, translation.reply.timing);
      const text = await writeTranslateReply(translation.reply, returnTokens ? translation.texts : null);
      // The text is the JSON of the schema's type already; fastify passes texts and streams on as they are.
      return reply.type('application/json; charset=utf-8').send(text as unknown as TranslateReply);
    },
  );
}
