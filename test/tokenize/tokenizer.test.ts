import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Tokenizer as PortTokenizer } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { classOf, LETTER, NUMBER, OTHER, SPACE } from '../../src/tokenize/code-points.js';
import { type ByteLevelTokenizer, loadTokenizer, SLICE_MS } from '../../src/tokenize/tokenizer.js';
import type { Encoded } from '../../src/tokenize/types.js';
import { FIXTURES, fixtureTokenizer, parityCases, tokenizerFile } from './fixtures.js';

const NFC = { normalizer: { type: 'NFC' } };

/** Any string without lone surrogates, dense in what pre-tokenisation decides on. */
const anyText = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        ' ',
        '  ',
        '\t',
        '\r\n',
        "'s",
        "'ll",
        "'",
        '5',
        'the',
        'ing',
        '½',
        'e\u0301',
        '🙂',
        '\u0085',
        '</s>',
        '\0',
      ),
      fc.string({ unit: 'grapheme', maxLength: 6 }),
      fc.string({ unit: 'binary', maxLength: 4 }),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(''));

/** Runs the computation to its end without ever pausing. */
function encodeAtOnce(tokenizer: ByteLevelTokenizer, text: string): Encoded {
  const steps = tokenizer.encodeSteps(text);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** Start of each code point in UTF-16 units, then the end. */
function unitOffsets(text: string): number[] {
  const offsets = [0];
  for (const character of text) offsets.push((offsets.at(-1) as number) + character.length);
  return offsets;
}

test('ids and offsets equal those of the Python tokenizers', async () => {
  const tokenizer = fixtureTokenizer();
  for (const { text, ids, starts } of parityCases()) {
    const encoded = await tokenizer.encode(text);
    const units = unitOffsets(text);
    assert.deepEqual([...encoded.ids], ids, JSON.stringify(text));
    assert.deepEqual([...encoded.offsets], [...starts.map((start) => units[start]), text.length], JSON.stringify(text));
    assert.equal(encoded.bytes, Buffer.byteLength(text));
  }
});

test('ids of a tokenizer that normalises to NFC equal those of the Python tokenizers', async () => {
  const tokenizer = fixtureTokenizer(NFC);
  for (const { text, ids, nfcIds } of parityCases()) {
    const encoded = await tokenizer.encode(text);
    assert.deepEqual([...encoded.ids], nfcIds ?? ids, JSON.stringify(text));
    assert.equal(encoded.offsets.at(-1), text.length);
  }
});

test('ids equal those of the JavaScript port where it follows the Python one: no numbers but ASCII digits, no specials', async () => {
  const tokenizer = fixtureTokenizer();
  const port = new PortTokenizer(tokenizerFile(), {});
  const text = fc
    .array(
      fc.constantFrom(' ', '  ', '\n', "'s", "'ll", "'", '5', '12', 'the', 'ing', ' of', 'é', '🙂', '日本', '.', '--'),
    )
    .map((parts) => parts.join(''));
  await fc.assert(
    fc.asyncProperty(text, async (text) => {
      assert.deepEqual([...(await tokenizer.encode(text)).ids], port.encode(text, { add_special_tokens: false }).ids);
    }),
  );
});

test('decode(encode(text)) is the text, or its NFC', async () => {
  const plain = fixtureTokenizer();
  const nfc = fixtureTokenizer(NFC);
  await fc.assert(
    fc.asyncProperty(anyText, async (text) => {
      assert.equal(plain.decode((await plain.encode(text)).ids), text);
      assert.equal(nfc.decode((await nfc.encode(text)).ids), text.normalize('NFC'));
    }),
    { numRuns: 500 },
  );
});

test('offsets ascend from 0 to the length, and cut the text where the tokens are', async () => {
  for (const tokenizer of [fixtureTokenizer(), fixtureTokenizer(NFC)]) {
    await fc.assert(
      fc.asyncProperty(anyText, async (text) => {
        const { ids, offsets } = await tokenizer.encode(text);
        assert.equal(offsets.length, ids.length + 1);
        assert.equal(offsets[0], 0);
        assert.equal(offsets.at(-1), text.length);
        ids.forEach((id, i) => {
          const [from, to] = [offsets[i] as number, offsets[i + 1] as number];
          assert.ok(from <= to);
          const piece = tokenizer.tokenText(id);
          if (!piece.includes('\ufffd') && text.normalize('NFC') === text) assert.equal(text.slice(from, to), piece);
        });
      }),
    );
  }
});

test('special tokens in a text are text; decode leaves special ids out', async () => {
  const tokenizer = fixtureTokenizer();
  const { ids } = await tokenizer.encode('<s>a</s><pad><unk>');
  assert.ok(ids.every((id) => id > 3));
  assert.equal(tokenizer.decode(ids), '<s>a</s><pad><unk>');
  assert.equal(tokenizer.decode([1, ...ids, 2, 0]), '<s>a</s><pad><unk>');
  assert.equal(tokenizer.tokenText(2), '</s>');
});

test('a lone surrogate is encoded as U+FFFD, a leading U+FEFF stays', async () => {
  const tokenizer = fixtureTokenizer();
  assert.equal(tokenizer.decode((await tokenizer.encode('a\ud800b\udc00')).ids), 'a\ufffdb\ufffd');
  assert.equal(tokenizer.decode((await tokenizer.encode('\ufeffa')).ids), '\ufeffa');
});

test('an id outside the vocabulary is a programming error', () => {
  const tokenizer = fixtureTokenizer();
  for (const id of [-1, 512, 1.5, Number.NaN])
    assert.throws(() => tokenizer.decode([id]), /outside the vocabulary \(0 \.\.\. 511\)/);
});

test('pausing changes nothing: texts encoded side by side in slices equal those encoded at once', async () => {
  const tokenizer = fixtureTokenizer();
  const longText = fc.tuple(anyText, fc.integer({ min: 1, max: 400 })).map(([text, times]) => text.repeat(times));
  await fc.assert(
    fc.asyncProperty(fc.array(longText, { minLength: 1, maxLength: 5 }), async (texts) => {
      const sliced = await Promise.all(texts.map((text) => tokenizer.encode(text)));
      assert.deepEqual(
        sliced,
        texts.map((text) => encodeAtOnce(tokenizer, text)),
      );
    }),
    { numRuns: 30 },
  );
});

for (const [name, word] of [
  ['letters', 'thething'.repeat(50_000)],
  ['one letter', 'e'.repeat(400_000)],
  ['spaces', ' '.repeat(400_000)],
  ['emoji', '👩‍👧🙂'.repeat(60_000)],
  ['digits', '1234567890'.repeat(40_000)],
  ['marks that need reordering', `a${'\u0301\u0316'.repeat(100_000)}`],
] as const) {
  test(`a word of 400,000 units (${name}) takes seconds at most and lets the event loop turn`, async () => {
    for (const tokenizer of [fixtureTokenizer(), fixtureTokenizer(NFC)]) {
      const startMs = performance.now();
      let turns = 0;
      let finished = false;
      const encoding = tokenizer.encode(word).finally(() => {
        finished = true;
      });
      while (!finished) {
        turns++;
        await nextTurn();
      }
      const { ids, offsets } = await encoding;
      const elapsedMs = performance.now() - startMs;
      assert.equal(offsets.length, ids.length + 1);
      assert.ok(elapsedMs < 5000, `${elapsedMs.toFixed(0)} ms`);
      assert.ok(turns >= Math.min(10, elapsedMs / (10 * SLICE_MS)), `${turns} turns in ${elapsedMs.toFixed(0)} ms`);
    }
  });
}

test('a long word is merged as short ones are: by rank, leftmost first', async () => {
  const tokenizer = fixtureTokenizer();
  // A piece of more than 1024 units takes the path that pauses.
  const [short, long] = await Promise.all([
    tokenizer.encode('thing'.repeat(100)),
    tokenizer.encode('thing'.repeat(1000)),
  ]);
  const port = new PortTokenizer(tokenizerFile(), {});
  assert.deepEqual([...short.ids], port.encode('thing'.repeat(100), { add_special_tokens: false }).ids);
  assert.deepEqual([...long.ids], port.encode('thing'.repeat(1000), { add_special_tokens: false }).ids);
});

test('code points are classed as the Rust tokenizers class them, not as JavaScript shorthands do', () => {
  const classes = [...'aé日\u0301_🙂 \t\n\u0085\u00a0\u3000\ufeff5½²Ⅷ٣'].map((character) =>
    classOf(character.codePointAt(0) as number),
  );
  assert.deepEqual(classes, [
    ...[LETTER, LETTER, LETTER, OTHER, OTHER, OTHER],
    ...[SPACE, SPACE, SPACE, SPACE, SPACE, SPACE, OTHER],
    ...[NUMBER, NUMBER, NUMBER, NUMBER, NUMBER],
  ]);
});

test('loadTokenizer reads a folder and names the file when it cannot', async () => {
  assert.equal((await loadTokenizer(FIXTURES)).vocabularySize, 512);
  await assert.rejects(
    loadTokenizer('/nowhere'),
    /\/nowhere\/tokenizer\.json: ENOENT.*restore it from the model package/,
  );
});

for (const [what, changes, message] of [
  ['another model', { model: { type: 'Unigram' } }, /\/model/],
  ['another normaliser', { normalizer: { type: 'NFKC' } }, /\/normalizer/],
  ['another pre-tokenizer', { pre_tokenizer: { type: 'Whitespace' } }, /\/pre_tokenizer/],
  ['truncation', { truncation: { max_length: 512 } }, /\/truncation/],
  ['a post-processor that adds tokens', { post_processor: { type: 'TemplateProcessing' } }, /\/post_processor/],
  [
    'an added token that is no special',
    { added_tokens: [{ id: 0, content: '<pad>', special: false }] },
    /\/added_tokens/,
  ],
  ['a missing byte', { model: model({ vocab: renamed('!', 'Ġunheard') }) }, /byte 33 has no token/],
  ['a gap in its ids', { model: model({ vocab: { ...vocab(), '!': 512 } }) }, /token ids must be 0 \.\.\. 511/],
  ['a merge of unknown parts', { model: model({ merges: [['t', 'unheard']] }) }, /merge \["t","unheard"\]/],
  ['an id twice', { model: model({ vocab: { ...vocab(), '!': 5 } }) }, /each once/],
] as const) {
  test(`a tokenizer with ${what} is refused by name`, () => {
    assert.throws(() => fixtureTokenizer(changes), message);
  });
}

function model(changes: Record<string, unknown>): Record<string, unknown> {
  return { ...(tokenizerFile().model as Record<string, unknown>), ...changes };
}

function vocab(): Record<string, number> {
  return (tokenizerFile().model as { vocab: Record<string, number> }).vocab;
}

function renamed(from: string, to: string): Record<string, number> {
  return Object.fromEntries(Object.entries(vocab()).map(([token, id]) => [token === from ? to : token, id]));
}
