import type { FastifyReply, FastifyRequest } from 'fastify';
import { monotonicMs } from '../../clock.js';
import { ServerError } from '../../errors.js';
import type { ModelDescription } from '../../models/description.js';
import { CompletionEvents } from '../completion-events.js';
import { type Prompt, readPrompts } from '../completion-prompts.js';
import { writeChoice, writeCompletion } from '../completion-reply.js';
import { type Completion, runCompletion } from '../completion-run.js';
import { CompletionBody, CompletionReply } from '../completion-schemas.js';
import { type CompletionSettings, completionSettings } from '../completion-settings.js';
import { eventWriter, stopWatch } from '../completion-stream.js';
import type { App, AppDeps } from '../deps.js';
import { toServerError } from '../errors.js';
import { type ModelTable, modelFor } from '../model-table.js';
import { type Granted, grantQuality, withGranted } from '../quality.js';
import type { RequestExit } from '../request-exit.js';
import { ErrorReply } from '../schemas.js';
import { sendTiming } from '../timing.js';
import { tokenizerOf } from '../tokenizers.js';

interface Order {
  readonly model: ModelDescription;
  readonly settings: CompletionSettings;
  readonly prompts: readonly Prompt[];
  readonly tokenizeMs: number;
  /** What a request of quality adaptive was given; its settings have the budget. */
  readonly granted: Granted | null;
}

/** `POST /v1/completions` as OpenAI's clients and lm-evaluation-harness send it: parse -> tokenise -> engine -> reply or events. */
export function completionRoutes(app: App, deps: AppDeps, models: ModelTable): void {
  const { config, admission, tokenizers } = deps;
  app.post(
    '/v1/completions',
    {
      schema: {
        summary: "Continues text, and scores it with echo: OpenAI's completions, with ponder beside usage",
        tags: ['OpenAI'],
        body: CompletionBody,
        response: { 200: CompletionReply, '4xx': ErrorReply, '5xx': ErrorReply },
      },
      onRequest: async (request) => admission.admitBody(request),
      preValidation: async ({ body }) => dropNulls(body),
    },
    async (request, reply) => {
      const { body, exit } = request;
      const model = modelFor('score', models, body.model, 'continue text');
      const tokenizer = tokenizerOf(tokenizers, model);
      const settings = completionSettings(body, model, config);
      exit.hold(admission.takeRequest());
      const fromMs = monotonicMs();
      const prompts = await readPrompts(body.prompt, model, tokenizer, settings, config, exit.signal);
      const tokenizeMs = monotonicMs() - fromMs;
      if (settings.deadlineMs !== null && monotonicMs() > exit.startedAtMs + settings.deadlineMs) {
        throw new ServerError(
          'DEADLINE_EXCEEDED',
          'the deadline passed while the text was tokenised: raise deadline_ms',
        );
      }
      const granted = grant(deps, exit, model, prompts, settings);
      const budget = withGranted(settings.budget, granted);
      const order = { model, settings: { ...settings, budget }, prompts, tokenizeMs, granted };
      const head = {
        id: `cmpl-${request.id}`,
        object: 'text_completion',
        created: Math.floor(Date.now() / 1000),
        model: model.id,
      };
      if (body.stream === true) {
        return sendEvents(request, reply, deps, order, head, body.stream_options?.include_usage === true);
      }
      return sendWhole(request, reply, deps, order, head);
    },
  );
}

/** @returns null for a request that wants all its steps */
function grant(
  { engine, config }: AppDeps,
  { tenant, startedAtMs }: RequestExit,
  model: ModelDescription,
  prompts: readonly Prompt[],
  { quality, budget, choices, maxNewTokens, deadlineMs }: CompletionSettings,
): Granted | null {
  const tokens = prompts.reduce((sum, { ids }) => sum + ids.length + maxNewTokens, 0) * choices;
  const deadlineAtMs = deadlineMs === null ? null : startedAtMs + deadlineMs;
  return grantQuality(
    quality,
    engine,
    { kind: 'generate', model: model.id, tokens, tenant, deadlineAtMs },
    budget,
    config,
  );
}

/** What stands behind the choices: a model without adaptive depth has nothing to ponder. */
function tailOf({ model, granted }: Order, { usage, ponder }: Completion): object {
  return {
    usage,
    ...(model.span === undefined ? { ponder } : {}),
    ...(granted === null ? {} : { quality: granted }),
  };
}

/** Clients write null for a field that they leave out. */
function dropNulls(body: unknown): void {
  if (typeof body !== 'object' || body === null) return;
  for (const [name, value] of Object.entries(body)) {
    if (value === null) delete (body as Record<string, unknown>)[name];
  }
}

async function sendWhole(
  { exit }: FastifyRequest,
  reply: FastifyReply,
  deps: AppDeps,
  order: Order,
  head: object,
): Promise<FastifyReply> {
  const { model, prompts, settings } = order;
  const tokenizer = tokenizerOf(deps.tokenizers, model);
  const count = prompts.length * settings.choices;
  const listener = settings.stops.length === 0 ? {} : { listener: stopWatch(count, tokenizer, settings) };
  const completion = await runCompletion(deps, exit, { ...order, ...listener });
  if (order.granted !== null) deps.observer.granted(model.id, order.granted.lowered);
  const { sequences, timing } = completion;
  const choices = [];
  for (const [index, sequence] of sequences.entries()) {
    const prompt = settings.echo ? (prompts[Math.floor(index / settings.choices)] ?? null) : null;
    choices.push(await writeChoice(index, prompt, sequence, tokenizer, settings));
  }
  sendTiming(reply, timing);
  return reply
    .type('application/json; charset=utf-8')
    .send(await writeCompletion(head, choices, tailOf(order, completion), settings.logprobs));
}

/** What fails before the first event is answered with its status; what fails later is the last event. */
async function sendEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  deps: AppDeps,
  order: Order,
  head: object,
  withUsage: boolean,
): Promise<FastifyReply> {
  const { exit } = request;
  const { model, prompts, settings } = order;
  const events = new CompletionEvents(head, settings.logprobs !== null, withUsage, settings.withDepths);
  const repeated = prompts.flatMap((prompt) => new Array<Prompt>(settings.choices).fill(prompt));
  const listener = eventWriter(events, repeated, tokenizerOf(deps.tokenizers, model), settings);
  const work = runCompletion(deps, exit, { ...order, listener }).then((completion) => {
    if (order.granted !== null) deps.observer.granted(model.id, order.granted.lowered);
    events.finish(tailOf(order, completion));
  });
  await Promise.race([events.begun, work]);
  work.catch((thrown: unknown) => {
    const error = toServerError(thrown, request, deps.config.bodyBytesMax);
    exit.outcome = error.code;
    if (error.code === 'INTERNAL') request.log.error({ err: thrown }, 'request failed');
    events.fail(error);
  });
  return reply
    .headers({ 'cache-control': 'no-cache', 'x-accel-buffering': 'no' })
    .type('text/event-stream; charset=utf-8')
    .send(events.stream);
}
