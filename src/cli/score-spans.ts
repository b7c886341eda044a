/**
 * The work of `score` for models with attention spans. A file is read and scored piece by piece, in a session of its own, so that its
 * length is no matter; with --lines and --json the texts and their tokens are held, as the HTTP reply has them.
 */
import { createReadStream } from 'node:fs';
import { monotonicMs } from '../clock.js';
import type { Engine } from '../engine/engine.js';
import type { SpanScoring } from '../http/span-run.js';
import type { SpanScoreReply } from '../http/span-schemas.js';
import type { SpanSettings } from '../http/span-settings.js';
import { SpanSums, spanResult, spanUsage, type TextLength } from '../http/span-sums.js';
import type { ModelDescription, SpanDescription } from '../models/description.js';
import type { Encoded, Tokenizer } from '../tokenize/types.js';
import { CommandError } from './command.js';
import { cannotRead, shownName } from './read-text.js';
import type { FileText } from './score-texts.js';

/** Read and scored at a time: many blocks, so that the engine seldom waits for the next piece. */
const PIECE_BYTES = 65_536;
const SESSIONS = { capped: 'file', whole: 'file without the cap' } as const;

export type SpanModel = ModelDescription & { readonly span: SpanDescription };

export interface SpanScorer {
  readonly engine: Engine;
  readonly model: SpanModel;
  readonly settings: SpanSettings;
  readonly blockTokens: number;
  readonly stop: AbortSignal;
  readonly onProgress: (tokensDone: number) => void;
}

/**
 * The sums over a file, which is never held. Bytes are the tokens, so they need not be text.
 * @throws CommandError when it can't be read or is empty
 */
export async function scoreFile(
  scorer: SpanScorer,
  file: string,
  stdin: NodeJS.ReadableStream,
): Promise<SpanScoreReply> {
  const { settings, onProgress } = scorer;
  const startedAtMs = monotonicMs();
  const sums = new SpanSums();
  const uncapped = settings.spanCost ? new SpanSums() : null;
  let tokens = 0;
  for await (const piece of piecesOf(file, stdin)) {
    const continues = tokens > 0;
    const before = tokens;
    await Promise.all([
      scorePiece(scorer, piece, sums, { key: SESSIONS.capped, continues, cap: settings.spanCap }, (done) =>
        onProgress(before + done),
      ),
      ...(uncapped === null
        ? []
        : [scorePiece(scorer, piece, uncapped, { key: SESSIONS.whole, continues, cap: null }, () => {})]),
    ]);
    tokens += piece.length;
  }
  if (tokens === 0) throw new CommandError(`${shownName(file)} is empty: there is nothing to score`);
  // What a reply needs of a text: its length in tokens, which are bytes.
  const encoded = { ids: { length: tokens }, bytes: tokens };
  return replyOf(scorer, [{ index: 0, encoded, sums, uncapped }], monotonicMs() - startedAtMs);
}

async function scorePiece(
  { engine, model, stop }: SpanScorer,
  piece: Uint8Array,
  sums: SpanSums,
  { key, continues, cap }: { readonly key: string; readonly continues: boolean; readonly cap: number | null },
  onProgress: (tokensDone: number) => void,
): Promise<void> {
  const session = { key, continues, ends: false };
  const request = {
    model: model.id,
    texts: [Int32Array.from(piece)],
    spanCap: cap,
    topLogprobs: 0,
    session,
    deadlineAtMs: null,
  };
  await engine.scoreStream(request, stop, (_, start, result) => {
    sums.add(result);
    onProgress(start + result.logprobs.length);
  });
}

async function* piecesOf(file: string, stdin: NodeJS.ReadableStream): AsyncGenerator<Uint8Array> {
  try {
    const source = file === '-' ? stdin : createReadStream(file, { highWaterMark: PIECE_BYTES });
    for await (const chunk of source) {
      const bytes = Buffer.from(chunk);
      for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined) throw error;
    throw cannotRead(file, code);
  }
}

/** Each text by itself, with its tokens. */
export async function scoreLines(
  scorer: SpanScorer,
  texts: readonly FileText[],
  tokenizer: Tokenizer,
): Promise<SpanScoring> {
  const { engine, model, settings, stop, onProgress } = scorer;
  const startedAtMs = monotonicMs();
  const encoded: Encoded[] = [];
  for (const { text } of texts) encoded.push(await tokenizer.encode(text));
  const run = (cap: number | null) => {
    const request = { model: model.id, spanCap: cap, topLogprobs: 0, session: null, deadlineAtMs: null };
    return engine.scoreStream({ ...request, texts: encoded.map(({ ids }) => ids.slice()) }, stop);
  };
  const [outcome, whole] = await Promise.all([run(settings.spanCap), settings.spanCost ? run(null) : null]);
  onProgress(encoded.reduce((sum, { ids }) => sum + ids.length, 0));
  const scored = texts.map(({ index }, i) => ({
    index,
    encoded: encoded[i] as Encoded,
    sums: sumsOf(outcome.texts[i]),
    uncapped: whole === null ? null : sumsOf(whole.texts[i]),
  }));
  return { reply: replyOf(scorer, scored, monotonicMs() - startedAtMs), encoded, results: outcome.texts };
}

function sumsOf(result: SpanScoring['results'][number] | undefined): SpanSums {
  const sums = new SpanSums();
  if (result !== undefined) sums.add(result);
  return sums;
}

interface ScoredText {
  readonly index: number;
  readonly encoded: TextLength;
  readonly sums: SpanSums;
  readonly uncapped: SpanSums | null;
}

function replyOf(
  { model, settings, blockTokens }: SpanScorer,
  texts: readonly ScoredText[],
  totalMs: number,
): SpanScoreReply {
  const order = { model, settings };
  const uncapped = texts.flatMap((text) => text.uncapped ?? []);
  return {
    model: model.id,
    results: texts.map(({ index, encoded, sums, uncapped }) => spanResult(index, encoded, sums, order, uncapped)),
    usage: spanUsage(
      texts.map(({ encoded }) => encoded),
      texts.map(({ sums }) => sums),
      uncapped.length === 0 ? null : uncapped,
      order,
      null,
      blockTokens,
    ),
    timing: { queue_ms: 0, tokenize_ms: 0, compute_ms: totalMs, total_ms: totalMs },
  };
}
