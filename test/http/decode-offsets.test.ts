import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeWithOffsets } from '../../src/http/decode-offsets.js';
import { ByteTokenizer } from '../fakes.js';

const tokenizer = new ByteTokenizer();

test('offsets of decoded tokens are those of the text they decode to, characters split or not', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }), async (text) => {
      const encoded = await tokenizer.encode(Buffer.from(text).toString());
      assert.deepEqual(await decodeWithOffsets(tokenizer, encoded.ids), encoded);
    }),
  );
});

test('U+FFFD in the text itself is a character like any other', async () => {
  const encoded = await tokenizer.encode('a\uFFFD\uFFFDb');
  assert.deepEqual(await decodeWithOffsets(tokenizer, encoded.ids), encoded);
});

test('a token that ends one character and begins the next starts where the first one does', async () => {
  // "éé" as the token 256 (é and half of é) and the last byte; then "!".
  const { offsets, bytes } = await decodeWithOffsets(tokenizer, Int32Array.of(256, 0xa9, 33));
  assert.deepEqual([...offsets], [0, 1, 2, 3]);
  assert.equal(bytes, 5);
});

test('any ids have offsets that never fall and end at the length of the decoded text', async () => {
  const ids = fc.array(fc.integer({ min: 0, max: 256 }), { minLength: 1, maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(ids, async (list) => {
      const { offsets } = await decodeWithOffsets(tokenizer, Int32Array.from(list));
      for (let i = 1; i < offsets.length; i++) assert.ok((offsets[i] ?? 0) >= (offsets[i - 1] ?? 0));
      assert.equal(offsets.length, list.length + 1);
    }),
  );
});
