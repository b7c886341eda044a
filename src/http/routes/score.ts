import type { FastifyReply } from 'fastify';
import { monotonicMs } from '../../clock.js';
import { ServerError } from '../../errors.js';
import type { ModelDescription } from '../../models/description.js';
import type { Tokenizer } from '../../tokenize/types.js';
import type { App, AppDeps } from '../app.js';
import { type ModelTable, modelNamed } from '../model-table.js';
import { ErrorReply, ScoreBody, ScoreReply, type Timing } from '../schemas.js';
import { readInputs } from '../score-input.js';
import { dealResults, summarize, usageOf, writeReply } from '../score-reply.js';
import { scoreSettings } from '../score-settings.js';
import { tokenizeInputs, windowsOf } from '../score-work.js';

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
      // Before the body is read: a server that can't serve must not receive megabytes first.
      onRequest: async (request) => {
        admission.assertReady();
        const declared = request.headers['content-length'];
        const bytes = declared === undefined ? null : Number(declared);
        if (bytes !== 0) request.exit.hold(admission.takeBody(bytes));
      },
    },
    async (request, reply) => {
      const { body, exit } = request;
      const model = modelNamed(models, body.model);
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
      const timing = timingOf(queueMs, tokenizeMs, computeMs, totalMs);
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

function tokenizerOf(tokenizers: ReadonlyMap<string, Tokenizer>, model: ModelDescription): Tokenizer {
  const tokenizer = tokenizers.get(model.id);
  if (tokenizer === undefined) throw new Error(`model ${model.id} was loaded without its tokenizer`);
  return tokenizer;
}

/** Milliseconds to the microsecond: what is below is noise. */
function timingOf(queueMs: number, tokenizeMs: number, computeMs: number, totalMs: number): Timing {
  const [queue_ms, tokenize_ms, compute_ms, total_ms] = [queueMs, tokenizeMs, computeMs, totalMs].map(
    (ms) => Math.round(ms * 1000) / 1000,
  ) as [number, number, number, number];
  return { queue_ms, tokenize_ms, compute_ms, total_ms };
}

/** The same figures where browsers (Server-Timing) and clients of text-embeddings-inference (whole milliseconds) look for them. */
function sendTiming(reply: FastifyReply, timing: Timing): void {
  const { queue_ms, tokenize_ms, compute_ms, total_ms } = timing;
  reply.headers({
    'server-timing': `queue;dur=${queue_ms}, tokenize;dur=${tokenize_ms}, compute;dur=${compute_ms}, total;dur=${total_ms}`,
    'x-queue-time': String(Math.round(queue_ms)),
    'x-tokenization-time': String(Math.round(tokenize_ms)),
    'x-inference-time': String(Math.round(compute_ms)),
  });
}

function sumColumns(rows: readonly (readonly number[])[]): number[] {
  const sums: number[] = [];
  for (const row of rows) for (const [i, value] of row.entries()) sums[i] = (sums[i] ?? 0) + value;
  return sums;
}
