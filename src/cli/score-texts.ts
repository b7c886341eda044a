/**
 * The work of `score`: texts become windows, the engine scores them, and the sums are those of the HTTP reply. Windows go to
 * the engine in small requests, several at a time, so that its slots stay full, progress shows, and its queue holds seconds of
 * work however large the file is.
 */
import { monotonicMs } from '../clock.js';
import type { Config } from '../config.js';
import type { Engine, ScoreRequest } from '../engine/engine.js';
import type { ScoreWindow, ScoreWindowResult } from '../engine/protocol.js';
import { ServerError } from '../errors.js';
import type { ScoreReply } from '../http/schemas.js';
import { dealResults, type ScoredInput, summarize, usageOf, writeReply } from '../http/score-reply.js';
import type { ScoreSettings } from '../http/score-settings.js';
import { tokenizeInputs, windowsOf } from '../http/score-work.js';
import type { ModelDescription } from '../models/description.js';
import type { loadTokenizer } from '../tokenize/tokenizer.js';
import { CommandError, type OutputStream, Stopped } from './command.js';
import { Progress } from './progress.js';

const BATCH_TOKENS = 2048;
const BATCH_WINDOWS_MAX = 64;
const BATCHES_IN_FLIGHT = 8;

/** The queue is the command's own: nothing is refused for its length or its wait. */
export const UNLIMITED = { queueLanesMax: 1_000_000, queueTokensMax: 2 ** 31, queueWaitMsMax: 2 ** 31 - 1 };

/** One text with its place in the file: line numbers from 0, as in the reply. */
export interface FileText {
  readonly index: number;
  readonly text: string;
  /** How messages call it. */
  readonly param: string;
}

export interface Scoring {
  readonly texts: readonly FileText[];
  readonly model: ModelDescription;
  readonly settings: ScoreSettings;
  readonly config: Config;
}

export interface ScoringDependencies {
  readonly loadTokenizer: typeof loadTokenizer;
  readonly startEngine: (config: Config, models: readonly ModelDescription[]) => Promise<Engine>;
}

/** The texts with their results, and what they cost. */
export interface ScoredTexts {
  readonly texts: readonly FileText[];
  readonly inputs: readonly ScoredInput[];
  readonly reply: ScoreReply;
  readonly writeJson: () => ReturnType<typeof writeReply>;
}

/** @throws CommandError, ServerError, or Stopped when `stop` aborts */
export async function scoreTexts(
  { texts, model, settings, config }: Scoring,
  stderr: OutputStream,
  stop: AbortSignal,
  world: ScoringDependencies,
): Promise<ScoredTexts> {
  const startedAtMs = monotonicMs();
  const tokenizer = await orCommandError(world.loadTokenizer(model.folder, model.vocabularySize));
  const tokenizeAtMs = monotonicMs();
  const tokenized = await orStopped(stop, tokenizeInputs(texts, tokenizer, settings, UNLIMITED, stop));
  const tokenizeMs = monotonicMs() - tokenizeAtMs;
  const windows = windowsOf(tokenized);
  const engine = await orCommandError(world.startEngine({ ...config, ...UNLIMITED }, [model]));
  const progress = new Progress(stderr, 'scoring', tokensOf(windows));
  try {
    const computeAtMs = monotonicMs();
    const request = { model: model.id, budget: settings.budget, topLogprobs: 0, deadlineAtMs: null };
    const results = await orStopped(
      stop,
      scoreWindows(engine, request, windows, stop, (done) => progress.update(done)),
    );
    const nowMs = monotonicMs();
    const inputs = dealResults(tokenized, results);
    const reply = {
      model: model.id,
      results: inputs.map((input, i) => summarize(texts[i]?.index ?? i, input, model.maxSteps)),
      usage: usageOf(inputs, model.maxSteps),
      timing: { queue_ms: 0, tokenize_ms: tokenizeMs, compute_ms: nowMs - computeAtMs, total_ms: nowMs - startedAtMs },
    };
    return { texts, inputs, reply, writeJson: () => writeReply(reply, inputs, 0, tokenizer) };
  } finally {
    progress.end();
    await engine.drain(0);
  }
}

/** The results of all windows, in their order; when one request fails the others are given up. */
async function scoreWindows(
  engine: Engine,
  request: Omit<ScoreRequest, 'windows'>,
  windows: readonly ScoreWindow[],
  stop: AbortSignal,
  onProgress: (tokensDone: number) => void,
): Promise<ScoreWindowResult[]> {
  const results: ScoreWindowResult[] = new Array(windows.length);
  const failure = new AbortController();
  const giveUp = AbortSignal.any([stop, failure.signal]);
  let next = 0;
  let tokensDone = 0;
  const feed = async (): Promise<void> => {
    while (next < windows.length) {
      const from = next;
      next = batchEnd(windows, from);
      const batch = windows.slice(from, next);
      const outcome = await engine.score({ ...request, windows: batch }, giveUp);
      outcome.windows.forEach((result, i) => {
        results[from + i] = result;
      });
      tokensDone += tokensOf(batch);
      onProgress(tokensDone);
    }
  };
  const feeds = Array.from({ length: BATCHES_IN_FLIGHT }, feed);
  try {
    await Promise.all(feeds);
  } catch (error) {
    failure.abort();
    await Promise.allSettled(feeds);
    throw error;
  }
  return results;
}

function batchEnd(windows: readonly ScoreWindow[], from: number): number {
  let tokens = 0;
  let end = from;
  while (end < windows.length && end - from < BATCH_WINDOWS_MAX && tokens < BATCH_TOKENS) {
    tokens += (windows[end] as ScoreWindow).ids.length;
    end++;
  }
  return end;
}

function tokensOf(windows: readonly ScoreWindow[]): number {
  return windows.reduce((sum, window) => sum + window.ids.length, 0);
}

/** The loaders' errors are one line with the remedy, though of no class of their own. */
export async function orCommandError<T>(loading: Promise<T>): Promise<T> {
  try {
    return await loading;
  } catch (error) {
    if (error instanceof ServerError) throw error;
    throw new CommandError(error instanceof Error ? error.message : String(error));
  }
}

/** What was given up because of `stop` has no other error than that. */
export async function orStopped<T>(stop: AbortSignal, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw stop.aborted ? new Stopped() : error;
  }
}
