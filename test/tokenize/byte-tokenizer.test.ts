import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ByteTokenizer } from '../../src/tokenize/byte-tokenizer.js';

test('bytes of any well-formed text, each with the place of its character', async () => {
  const tokenizer = new ByteTokenizer();
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary' }), async (text) => {
      const { ids, offsets, bytes } = await tokenizer.encode(text);
      assert.deepEqual([...ids], [...Buffer.from(text)]);
      assert.equal(bytes, ids.length);
      assert.equal(tokenizer.decode(ids), text);
      assert.equal(offsets.at(-1), text.length);
      let at = 0;
      let unit = 0;
      for (const character of text) {
        for (let i = 0; i < Buffer.byteLength(character); i++) assert.equal(offsets[at++], unit);
        unit += character.length;
      }
    }),
  );
});

test('a byte that is part of a character has no text of its own', () => {
  const tokenizer = new ByteTokenizer();
  assert.equal(tokenizer.tokenText(65), 'A');
  assert.equal(tokenizer.tokenText(0xc3), '\ufffd');
});
