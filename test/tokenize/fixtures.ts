import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { TimeSlicer } from '../../src/tokenize/time-slicer.js';
import { ByteLevelTokenizer } from '../../src/tokenize/tokenizer.js';
import { parseTokenizerFile } from '../../src/tokenize/tokenizer-file.js';

/** Folder of the fixtures in the source tree: the tests run from dist, which holds no JSON. */
export const FIXTURES = fileURLToPath(new URL('../../../test/tokenize/fixtures/', import.meta.url));

/** What Python's `tokenizers` makes of a text; see fixtures/make.py. */
export interface ParityCase {
  readonly text: string;
  readonly ids: number[];
  /** Start of each token in code points. */
  readonly starts: number[];
  /** Ids under a tokenizer that normalises to NFC; null: the same. */
  readonly nfcIds: number[] | null;
}

export function parityCases(): ParityCase[] {
  const lines = readFileSync(`${FIXTURES}parity.jsonl`, 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => JSON.parse(line) as ParityCase);
}

/** The fixture tokenizer's file as an object that a test may change. */
export function tokenizerFile(): Record<string, unknown> {
  return JSON.parse(readFileSync(`${FIXTURES}tokenizer.json`, 'utf8')) as Record<string, unknown>;
}

export function fixtureTokenizer(
  changes: Record<string, unknown> = {},
  slicer: TimeSlicer = new TimeSlicer(3),
): ByteLevelTokenizer {
  return new ByteLevelTokenizer(parseTokenizerFile(JSON.stringify({ ...tokenizerFile(), ...changes })), slicer);
}
