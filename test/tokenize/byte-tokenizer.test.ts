import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ByteTokenizer, parseByteVocabulary } from '../../src/tokenize/byte-tokenizer.js';

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

test('a vocabulary of some bytes: ids in its order, and a byte outside it is refused with its place', async () => {
  const tokenizer = new ByteTokenizer(parseByteVocabulary('[98, 97, 195, 159]'));
  assert.equal(tokenizer.vocabularySize, 4);
  const { ids } = await tokenizer.encode('abß');
  assert.deepEqual([...ids], [1, 0, 2, 3]);
  assert.equal(tokenizer.decode(ids), 'abß');
  assert.deepEqual([tokenizer.tokenText(1), tokenizer.tokenText(2)], ['a', '\ufffd']);
  await assert.rejects(tokenizer.encode('abc'), /vocabulary \(0x63 at offset 2\): leave it out/);
  for (const json of ['{}', '[1, 1]', '[256]', '[1.5]', '["a"]']) {
    assert.throws(() => parseByteVocabulary(json), /no list of different bytes/);
  }
});
