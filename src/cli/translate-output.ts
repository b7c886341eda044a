/** Where the sentences of `translate` go: to standard output as they come, or to a file through a journal. */
import { type BigIntStats, fstatSync, statSync } from 'node:fs';
import type { DeliveredSentence } from '../translate/translate-stream.js';
import type { TranslatedSentence } from '../translate/types.js';
import { type CommandIo, UsageError, write } from './command.js';
import { FILES_BESIDE, Journal, type JournalHeader, type JournalRecord, jsonLine } from './translate-journal.js';

export interface TranslateOutput {
  /** Sentences that an earlier run has done. */
  readonly done: number;
  sentence(index: number, delivered: DeliveredSentence): Promise<void>;
  /** A text without a sentence. */
  untranslated(text: string): Promise<void>;
  /** All is said. */
  finish(): Promise<void>;
  /** The run ends before that. Returns what the user should know, or null. */
  interrupt(): Promise<string | null>;
}

export function toStream({ stdout }: CommandIo, jsonl: boolean): TranslateOutput {
  return {
    done: 0,
    sentence: (index, delivered) => write(stdout, jsonl ? jsonLine(jsonRecord(index, delivered)) : pieceOf(delivered)),
    untranslated: (text) => write(stdout, jsonl ? '' : text),
    finish: async () => {},
    interrupt: async () => null,
  };
}

/**
 * Refuses, before anything is read, an output that can't be made, and one that would take the place of its own source: the run would
 * go well, and the text be gone. A file is the same by its device and number, whatever the path, the link or the redirection.
 * @throws UsageError
 */
export function assertWritable(output: string, file: string, stdin: NodeJS.ReadableStream): void {
  if (statOf(output)?.isDirectory()) throw new UsageError(`--output ${output} is a folder: name a file in it`);
  const source = file === '-' ? statOfStream(stdin) : statOf(file);
  if (source?.isFile() !== true) return;
  for (const path of [output, ...FILES_BESIDE.map((suffix) => output + suffix)]) {
    const there = statOf(path);
    if (there === null || there.dev !== source.dev || there.ino !== source.ino) continue;
    const what = path === output ? `--output ${output}` : `${path}, which --output ${output} needs,`;
    throw new UsageError(`${what} is the text to translate, which would be lost: choose another --output`);
  }
}

/** null: nothing is there, or nothing that may be looked at. */
function statOf(path: string): BigIntStats | null {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return null;
  }
}

function statOfStream(stream: NodeJS.ReadableStream): BigIntStats | null {
  const { fd } = stream as { readonly fd?: unknown };
  return typeof fd === 'number' ? fstatSync(fd, { bigint: true }) : null;
}

export async function toFile(output: string, jsonl: boolean, header: JournalHeader): Promise<TranslateOutput> {
  const journal = await Journal.open(output, header);
  let rest = '';
  return {
    done: journal.records,
    sentence: (index, delivered) =>
      journal.append(jsonl ? jsonRecord(index, delivered) : { index, piece: pieceOf(delivered) }),
    untranslated: async (text) => {
      rest = jsonl ? '' : text;
    },
    finish: () => journal.finish((record, line) => (jsonl ? `${line}\n` : String(record.piece)), rest),
    interrupt: async () => {
      await journal.close();
      return `${journal.path} keeps ${journal.records} sentences: run the same command again to go on from there`;
    },
  };
}

/** The stretch of the output that ends with this sentence; the last one has what follows, too. */
function pieceOf({ before, sentence, after }: DeliveredSentence): string {
  return before + sentence.text + (after ?? '');
}

/** A line of --jsonl. Depths are those of the source's tokens, and of the translation's; the end of sentence counts in both. */
function jsonRecord(index: number, { sentence, candidates }: DeliveredSentence): JournalRecord {
  const { offset, source, text, finishReason, cost } = sentence;
  const [best] = candidates;
  return {
    index,
    offset,
    source,
    text,
    ...(candidates.length > 1 ? { alternatives: candidates.slice(1) } : {}),
    score: best?.score ?? 0,
    finish_reason: finishReason,
    ...depthsOf(sentence),
    cost: {
      lanes: cost.lanes,
      encoder_positions: cost.encoderPositions,
      encoder_steps: cost.encoderSteps,
      decoder_positions: cost.decoderPositions,
      decoder_steps: cost.decoderSteps,
    },
  };
}

function depthsOf({ result }: TranslatedSentence): { source_depths: number[]; depths: number[] } {
  return { source_depths: [...result.encoderDepths], depths: [...(result.hypotheses[0]?.depths ?? [])] };
}
