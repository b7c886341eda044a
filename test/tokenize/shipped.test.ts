import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadTokenizer } from '../../src/tokenize/tokenizer.js';

const MODELS = fileURLToPath(new URL('../../../models/', import.meta.url));

interface Golden {
  readonly text: string;
  readonly ids: readonly number[];
  /** Null where the file does not say. */
  readonly bytes: number | null;
}

/** A scorer's golden texts, or a translator's sources without the end of sentence. */
function goldenTexts(name: string): Golden[] {
  const cases = JSON.parse(readFileSync(`${MODELS}${name}/golden.json`, 'utf8')) as (
    | Golden
    | { source: string; source_ids: number[] }
  )[];
  return cases.map((one) =>
    'source' in one ? { text: one.source, ids: one.source_ids.slice(0, -1), bytes: null } : one,
  );
}

for (const name of readdirSync(MODELS)) {
  test(`the golden texts of ${name} have the ids that Python gave them`, async () => {
    const { dimensions } = JSON.parse(readFileSync(`${MODELS}${name}/manifest.json`, 'utf8'));
    const tokenizer = await loadTokenizer(MODELS + name, dimensions.vocab);
    const golden = goldenTexts(name);
    assert.ok(golden.length > 0);
    for (const { text, ids, bytes } of golden) {
      const encoded = await tokenizer.encode(text);
      // A text longer than the context has the ids of its first window only.
      assert.deepEqual([...encoded.ids.subarray(0, ids.length)], ids, JSON.stringify(text));
      if (bytes !== null) assert.equal(encoded.bytes, bytes);
      assert.equal(tokenizer.decode(encoded.ids), text);
    }
  });
}
