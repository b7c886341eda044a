/** One translation from texts to what is told of it; `/v1/translate` and LibreTranslate's `/translate` differ only around it. */
import { monotonicMs } from '../clock.js';
import type { ModelDescription } from '../models/description.js';
import { type TranslateInput, translateTexts } from '../translate/translate-texts.js';
import type { TranslatedText, TranslateProgress, TranslateSettings } from '../translate/types.js';
import type { AppDeps } from './deps.js';
import { grantQuality, type Quality, withGranted } from './quality.js';
import type { RequestExit } from './request-exit.js';
import { roundMs } from './timing.js';
import { tokenizerOf } from './tokenizers.js';
import { summarizeText, translateUsage } from './translate-reply.js';
import type { TranslateReply } from './translate-schemas.js';

export interface TranslationOrder {
  readonly model: ModelDescription;
  readonly inputs: readonly TranslateInput[];
  readonly settings: TranslateSettings;
  /** null: no deadline. */
  readonly deadlineMs: number | null;
  readonly progress?: TranslateProgress;
  readonly quality?: Quality;
}

export interface Translation {
  /** Without tokens. */
  readonly reply: TranslateReply;
  readonly texts: readonly TranslatedText[];
}

/** @throws ServerError as `translateTexts` does */
export async function runTranslation(
  { config, engine, tokenizers, observer }: AppDeps,
  exit: RequestExit,
  { model, inputs, settings, deadlineMs, progress, quality }: TranslationOrder,
): Promise<Translation> {
  const calledAtMs = monotonicMs();
  const { tenant } = exit;
  const deadlineAtMs = deadlineMs === null ? null : exit.startedAtMs + deadlineMs;
  const bytes = inputs.reduce((sum, { text }) => sum + text.length, 0);
  const foreseen = { kind: 'translate', model: model.id, bytes, tenant, deadlineAtMs } as const;
  engine.refuseIfLate(foreseen);
  const granted = grantQuality(quality ?? 'full', engine, foreseen, settings.decoderBudget, config);
  const budgets = {
    encoderBudget: withGranted(settings.encoderBudget, granted),
    decoderBudget: withGranted(settings.decoderBudget, granted),
  };
  const work = await translateTexts(
    { engine, tokenizer: tokenizerOf(tokenizers, model), model },
    inputs,
    { ...settings, ...budgets },
    {
      signal: exit.signal,
      deadlineAtMs,
      tenant,
      ...(progress === undefined ? {} : { progress, streamTokens: settings.beam === 1 }),
    },
  );
  const { texts, queueMs, computeMs, tokenizeMs } = work;
  const totalMs = monotonicMs() - exit.startedAtMs;
  const firstTokenMs = work.firstTokenMs === 0 ? 0 : calledAtMs - exit.startedAtMs + work.firstTokenMs;
  const results = texts.map((text, i) => summarizeText(i, text, model.maxSteps));
  const usage = translateUsage(texts, model.maxSteps);
  observer.translated({
    model: model.id,
    sourceTokens: usage.source_tokens,
    targetTokens: usage.target_tokens,
    finishReasons: texts.flatMap(({ sentences }) => sentences.map(({ finishReason }) => finishReason)),
    encoderHistograms: results.map(({ ponder }) => ponder.encoder.histogram),
    decoderHistograms: results.map(({ ponder }) => ponder.decoder.histogram),
    queueMs,
    tokenizeMs,
    computeMs,
    totalMs,
    firstTokenMs,
    furtherTokensMs: Math.max(0, totalMs - firstTokenMs),
  });
  exit.phases = { tokenizeMs, queueMs, computeMs };
  const timing = {
    queue_ms: roundMs(queueMs),
    tokenize_ms: roundMs(tokenizeMs),
    compute_ms: roundMs(computeMs),
    total_ms: roundMs(totalMs),
    first_token_ms: roundMs(firstTokenMs),
  };
  if (granted !== null) observer.granted(model.id, granted.lowered);
  return {
    reply: { model: model.id, results, usage, timing, ...(granted === null ? {} : { quality: granted }) },
    texts,
  };
}
