import { monotonicMs } from '../../clock.js';
import { ServerError } from '../../errors.js';
import type { App, AppDeps } from '../deps.js';
import { type ModelTable, modelFor } from '../model-table.js';
import { ErrorReply, ScoreBody, ScoreReply } from '../schemas.js';
import { readInputs } from '../score-input.js';
import { dealResults, summarize, usageOf, writeReply } from '../score-reply.js';
import { scoreSettings } from '../score-settings.js';
import { tokenizeInputs, windowsOf } from '../score-work.js';
import { roundMs, sendTiming } from '../timing.js';
import { tokenizerOf } from '../tokenizers.js';

/** `POST /v1/score`: parse -> tokenise -> engine -> reply. */
export function scoreRoutes(
  app: App,
  { config, engine, admission, tokenizers, observer }: AppDeps,
  models: ModelTable,
): void {
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
      const tokenizer = tokenizerOf(tokenizers, model);
      const settings = scoreSettings(body, model, config);
      const inputs = readInputs(body.input, { ...config, vocabularySize: model.vocabularySize });
      exit.hold(admission.takeRequest());

      const deadlineAtMs = settings.deadlineMs === null ? null : exit.startedAtMs + settings.deadlineMs;
      const tokenizeFromMs = monotonicMs();
      const tokenized = await tokenizeInputs(inputs, tokenizer, settings, config, exit.signal);
      const tokenizeMs = monotonicMs() - tokenizeFromMs;
      if (deadlineAtMs !== null && monotonicMs() > deadlineAtMs) {
        throw new ServerError(
          'DEADLINE_EXCEEDED',
          'the deadline passed while the text was tokenised: raise deadline_ms',
        );
      }

      const { budget, topLogprobs } = settings;
      const windows = windowsOf(tokenized);
      const outcome = await engine.score({ model: model.id, windows, budget, topLogprobs, deadlineAtMs }, exit.signal);

      const scored = dealResults(tokenized, outcome.windows);
      const results = scored.map((input, i) => summarize(i, input, model.maxSteps));
      const usage = usageOf(scored, model.maxSteps);
      const { queueMs, computeMs } = outcome;
      const totalMs = monotonicMs() - exit.startedAtMs;
      const timing = {
        queue_ms: roundMs(queueMs),
        tokenize_ms: roundMs(tokenizeMs),
        compute_ms: roundMs(computeMs),
        total_ms: roundMs(totalMs),
      };
      const histogram = sumColumns(results.map(({ ponder }) => ponder.histogram));
      observer.scored({ model: model.id, tokens: usage.tokens, histogram, queueMs, tokenizeMs, computeMs, totalMs });

      sendTiming(reply, timing);
      const summary = { model: model.id, results, usage, timing };
      const text = writeReply(summary, settings.returnTokens ? scored : null, topLogprobs, tokenizer);
      // The text is the JSON of the schema's type already; fastify passes texts and streams on as they are.
      return reply.type('application/json; charset=utf-8').send(text as unknown as ScoreReply);
    },
  );
}

function sumColumns(rows: readonly (readonly number[])[]): number[] {
  const sums: number[] = [];
  for (const row of rows) for (const [i, value] of row.entries()) sums[i] = (sums[i] ?? 0) + value;
  return sums;
}
