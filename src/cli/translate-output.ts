/** Where the sentences of `translate` go: to standard output as they come, or to a file through a journal. */
import type { DeliveredSentence } from '../translate/translate-stream.js';
import type { TranslatedSentence } from '../translate/types.js';
import { type CommandIo, write } from './command.js';
import { Journal, type JournalHeader, type JournalRecord, jsonLine } from './translate-journal.js';

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
