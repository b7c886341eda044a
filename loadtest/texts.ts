/** What the requests say: English text in sentences, and pieces of it whose lengths have a heavy tail as those of real users do. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandError } from '../src/cli/command.js';
import type { Random } from '../test/seed.js';

/** Beside the checkout, where there is one. */
const EVAL = fileURLToPath(new URL('../../../shared/eval', import.meta.url));
const EVAL_TEXT = 'text/wikipedia.test.txt';
const EVAL_SENTENCES = 'ende/newstest2014.en';
/** Enough that nothing repeats within any cache. */
const TEXT_CHARACTERS_MAX = 2_000_000;

export interface Corpus {
  /** Words of running text; a piece is a run of them. */
  readonly words: readonly string[];
  readonly sentences: readonly string[];
  /** Where it comes from, for the report. */
  readonly source: string;
}

/** The file given, else the evaluation texts, else the examples that the packages bring. */
export async function loadCorpus(file: string | null, modelsFolder: string): Promise<Corpus> {
  if (file !== null) return corpusOf(await readFile(file, 'utf8'), null, file);
  if (existsSync(join(EVAL, EVAL_TEXT))) {
    const sentences = await readFile(join(EVAL, EVAL_SENTENCES), 'utf8').catch(() => null);
    return corpusOf(await readFile(join(EVAL, EVAL_TEXT), 'utf8'), sentences, `${EVAL_TEXT}, ${EVAL_SENTENCES}`);
  }
  const examples = async (model: string, field: 'text' | 'source') => {
    const golden = await readFile(join(modelsFolder, model, 'golden.json'), 'utf8').catch(() => '[]');
    return (JSON.parse(golden) as Record<string, string>[]).map((entry) => entry[field] ?? '');
  };
  const texts = (await examples('ut-lm-en', 'text')).join('\n');
  const sentences = (await examples('ut-mt-ende', 'source')).join('\n');
  return corpusOf(texts, sentences, "the packages' examples");
}

function corpusOf(text: string, sentences: string | null, source: string): Corpus {
  const words = text.slice(0, TEXT_CHARACTERS_MAX).split(/\s+/).filter(Boolean);
  if (words.length < 10) throw new CommandError(`${source} holds fewer than ten words: give a longer --file`);
  const lines = (sentences ?? text.slice(0, TEXT_CHARACTERS_MAX)).split(/\n+/).map((line) => line.trim());
  return { words, sentences: lines.filter((line) => line !== ''), source };
}

/** Log-normal: half of the texts are shorter than `medianWords`, few are very long. */
export interface Lengths {
  readonly medianWords: number;
  /** Of the logarithm; 0 makes all equal, 1 a heavy tail. */
  readonly sigma: number;
  readonly maxWords: number;
}

export function drawLength(random: Random, { medianWords, sigma, maxWords }: Lengths): number {
  const length = Math.round(medianWords * Math.exp(sigma * normal(random)));
  return Math.min(maxWords, Math.max(1, length));
}

/** Box and Muller. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
}

export function drawText(random: Random, { words }: Corpus, lengths: Lengths): string {
  const length = Math.min(words.length, drawLength(random, lengths));
  const start = random.int(0, words.length - length);
  return words.slice(start, start + length).join(' ');
}

/** Sentences as they are in the corpus, several in a row with a probability that falls. */
export function drawSentences(random: Random, { sentences }: Corpus): string {
  let count = 1;
  while (count < 8 && random.chance(0.3)) count += 1;
  const start = random.int(0, Math.max(0, sentences.length - count));
  return sentences.slice(start, start + count).join(' ');
}
