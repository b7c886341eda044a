import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { documentSentences, type Format } from '../../src/translate/document.js';
import { cutPlace, SENTENCE_UNITS_MAX } from '../../src/translate/sentences.js';

function sentencesOf(text: string, format: Format = 'text'): string[] {
  return [...documentSentences(text, format)].flatMap((item) => (item === null ? [] : [item.sentence.source]));
}

/** The document put together again from what segmentation made of it. */
function rebuilt(text: string, format: Format): string {
  const steps = documentSentences(text, format);
  let result = '';
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) return step.value ?? result;
    if (step.value !== null) result += step.value.before + step.value.sentence.source + (step.value.after ?? '');
  }
}

for (const [what, text, expected] of [
  ['titles', 'Mr. Smith met Dr. Jones. Mrs. Hill left.', ['Mr. Smith met Dr. Jones.', 'Mrs. Hill left.']],
  ['initials', 'J. R. R. Tolkien wrote it. He was old.', ['J. R. R. Tolkien wrote it.', 'He was old.']],
  ['numbers after a stop', 'See Nos. 5 and 6. It is on p. 7.', ['See Nos. 5 and 6.', 'It is on p. 7.']],
  ['no. and No.', 'No. He left. See No. 5.', ['No.', 'He left.', 'See No. 5.']],
  ['states', 'The U.S. Army came. It left the U.S. The end.', ['The U.S. Army came.', 'It left the U.S.', 'The end.']],
  ['e.g. and i.e.', 'Take fruit, e.g. Apples, i.e. Food. Go.', ['Take fruit, e.g. Apples, i.e. Food.', 'Go.']],
  ['decimals', 'It costs 3.50 dollars. I paid $4.00.', ['It costs 3.50 dollars.', 'I paid $4.00.']],
  ['months', 'He came on Jan. 5. It rained.', ['He came on Jan. 5.', 'It rained.']],
  ['quotes after the stop', '"Stop." Then he left. (Really?) Yes!', ['"Stop."', 'Then he left.', '(Really?)', 'Yes!']],
  ['a question inside', '"Why?" she asked. Yahoo! is big.', ['"Why?" she asked.', 'Yahoo! is big.']],
  ['ellipses', 'Well... maybe not. Wait... What?', ['Well... maybe not.', 'Wait...', 'What?']],
  ['addresses', 'See www.a.org. Mail a.b@c.de. Go!', ['See www.a.org.', 'Mail a.b@c.de.', 'Go!']],
  ['firms', 'Apple Inc. The firm. Apple Inc. Europe.', ['Apple Inc.', 'The firm.', 'Apple Inc. Europe.']],
] as [string, string, string[]][]) {
  test(`sentences: ${what}`, () => assert.deepEqual(sentencesOf(text), expected));
}

test('headings, list items and quotes are sentences of their own, without their signs', () => {
  const text = 'My title\n\n# Heading\n- item one\n* Item two\n1. First. Then.\n  b) last\n> quoted words\n';
  assert.deepEqual(sentencesOf(text), [
    'My title',
    'Heading',
    'item one',
    'Item two',
    'First.',
    'Then.',
    'last',
    'quoted words',
  ]);
});

test('a hard-wrapped paragraph is joined', () => {
  const text =
    'This is a paragraph that was wrapped by hand at some column, and so every\n' +
    'line of it goes on in the next one until the paragraph ends. The reader\n' +
    'Smith must join them again.\n\nNext';
  const sentences = sentencesOf(text);
  assert.equal(sentences.length, 3);
  assert.match(sentences[1] ?? '', /^The reader\nSmith must/);
});

test('a line break ends a line that was not too long for the next word', () => {
  assert.deepEqual(sentencesOf('Red apples\nGreen pears\nblue plums'), ['Red apples', 'Green pears', 'blue plums']);
  const lines = ['The first line is as long as a sentence may be', 'The second is short', 'And the third one is not'];
  assert.deepEqual(sentencesOf(lines.join('\r\n')), lines);
});

test('a line goes on when the next one begins small, unless it ended', () => {
  assert.equal(sentencesOf('It is a long line that goes on\nin the next one').length, 1);
  assert.equal(sentencesOf('It is a long line that ends here:\nthe next one').length, 2);
});

test('what has no words is no sentence', () => {
  for (const text of ['', ' \n\t', '12345', '...', '🎉🎉', '東京', 'https://a.b/c', '{name}', '\0\u0001', 'привет']) {
    assert.deepEqual(sentencesOf(text), [], JSON.stringify(text));
  }
});

test('emoji and other scripts at the ends stay outside', () => {
  assert.deepEqual(sentencesOf('🎉 Great job! 🎉🎉 東京'), ['Great job!']);
});

test('long runs without a space are passed over, long sentences are cut', () => {
  assert.deepEqual(sentencesOf(`${'x'.repeat(1_000_000)} This is it.`), ['This is it.']);
  const parts = sentencesOf('word, '.repeat(2000));
  assert.ok(parts.length > 5);
  for (const part of parts) assert.ok(part.length <= SENTENCE_UNITS_MAX);
});

test('a cut prefers clauses to commas to words to characters', () => {
  assert.equal('aaaa bbbb; cccc, dd'.slice(cutPlace('aaaa bbbb; cccc, dd')), 'cccc, dd');
  assert.equal('aaaa bbbb, cc dd'.slice(cutPlace('aaaa bbbb, cc dd')), 'cc dd');
  assert.equal('aaaa bbb cc'.slice(cutPlace('aaaa bbb cc')), 'cc');
  assert.equal(cutPlace('aaa'), 3);
  assert.equal(cutPlace('aa🎉'.slice(0, 3)), 2, 'never between surrogates');
});

const FRAGMENTS = [
  ...[
    'Hello world. ',
    'Mr. X',
    ' ',
    '\n',
    '\r\n',
    '\n\n',
    '- ',
    '1. ',
    '<b>',
    '</b>',
    '<p>',
    '<br/>',
    '&amp;',
    '&lt;',
    '&',
  ],
  ...[
    '<',
    '>',
    '"',
    '🎉',
    '東京 ',
    '\0',
    '{name}',
    'http://a.b/c ',
    '3.5',
    '!',
    '?',
    '<!-- x -->',
    '<script>a<b</script>',
  ],
  ...[
    '<code>x y</code>',
    '\ud800',
    '\u2028',
    '<a href="x>y">',
    '</i>',
    '<i',
    'word '.repeat(20),
    'é',
    '\u00a0',
    '<pre>',
  ],
];

for (const format of ['text', 'html'] as const) {
  test(`${format}: the parts of any document put together are the document`, () => {
    const document = fc.oneof(
      fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 40 }).map((parts) => parts.join('')),
      fc.string({ unit: 'binary', maxLength: 60 }),
    );
    fc.assert(
      fc.property(document, (text) => assert.equal(rebuilt(text, format), text)),
      { numRuns: 1500 },
    );
  });
}

test('a megabyte of anything is segmented in short steps', () => {
  for (const unit of [
    'a',
    '🎉 ',
    '\0',
    ' ',
    '. ',
    'word ',
    'Short one. ',
    'a@b.',
    '<b>x</b>',
    '&lt;',
    '\n',
    '_a.-/ ',
  ]) {
    const text = unit.repeat(Math.ceil(500_000 / unit.length));
    for (const format of ['text', 'html'] as const) {
      const steps = documentSentences(text, format);
      let count = 0;
      const startedAtMs = performance.now();
      while (steps.next().done !== true) count++;
      const ms = performance.now() - startedAtMs;
      assert.ok(ms < 20_000, `${JSON.stringify(unit)} ${format}: ${ms} ms`);
      assert.ok(count < 1_000_000);
    }
  }
});
