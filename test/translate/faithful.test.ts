import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkNumbers, germanForm, numbersIn } from '../../src/translate/numbers.js';
import { protectedSpans } from '../../src/translate/spans.js';
import { translateTexts } from '../../src/translate/translate-texts.js';
import type { TranslateSettings } from '../../src/translate/types.js';
import { ByteTokenizer } from '../fakes.js';
import { MODEL, type Say, SETTINGS, SpeakingEngine } from './speaking-engine.js';

test('spans: addresses, placeholders, markup, code, paths, other scripts; words stay words', () => {
  const text =
    'Hi {name} {{x.y}} #{v}, go to https://a.b/c?d=e. Mail a.b@c.de! 100% sure, %s %(n)d %1$s $HOME <x/> &amp; `a b` 東京 is ' +
    '👩‍👩‍👧 ok #tag @me snake_case /usr/bin/x C:\\x --flag www.x.org, x.com. But and/or, 1/2, he/she, TCP/IP, naïve, U.S., a:b, 5%';
  assert.deepEqual(
    protectedSpans(text).map(({ start, end }) => text.slice(start, end)),
    (
      '{name} {{x.y}} #{v} https://a.b/c?d=e a.b@c.de %s %(n)d %1$s $HOME <x/> &amp; `a_b` 東京 👩‍👩‍👧 #tag @me snake_case ' +
      '/usr/bin/x C:\\x --flag www.x.org x.com'
    )
      .split(' ')
      .map((span) => (span === '`a_b`' ? '`a b`' : span)),
  );
});

test('numbers: German separators are right, other digits are not', () => {
  assert.equal(germanForm('1,234.5'), '1.234,5');
  assert.equal(germanForm('45.7'), '45,7');
  assert.equal(germanForm('12.05.2021'), null);
  assert.equal(germanForm('2:30'), null);
  for (const [source, said, text, missing] of [
    ['It costs 1,234.56.', 'Es kostet 1.234,56.', 'Es kostet 1.234,56.', []],
    ['It costs 1,234.56.', 'Es kostet 1,234,56.', 'Es kostet 1.234,56.', []],
    ['It is 5.5 km.', 'Es sind 5.5 km.', 'Es sind 5.5 km.', []],
    ['He has 3 dogs.', 'Er hat drei Hunde.', 'Er hat 3 Hunde.', []],
    ['A 3-year plan', 'Ein dreijähriger Plan', 'Ein 3-jähriger Plan', []],
    ['the 2nd time', 'das zweite Mal', 'das 2. Mal', []],
    ['at 1:30 p.m. today', 'heute um 13:30 Uhr', 'heute um 1:30 Uhr nachmittags', []],
    ['at 9 pm', 'um 21 Uhr', 'um 9 Uhr abends', []],
    ['at 2:30', 'um 2.30 Uhr', 'um 2:30 Uhr', []],
    ['at 2:30', 'um halb drei', 'um 2:30 Uhr', []],
    ['at 12:30', 'um halb eins', 'um 12:30 Uhr', []],
    ['3 of 3 cats', 'drei von drei Katzen', 'drei von drei Katzen', [0, 1]],
    ['in 1848 and 1950', 'im Jahr 1950', 'im Jahr 1950', [0]],
  ] as [string, string, string, number[]][]) {
    const checked = checkNumbers(source, numbersIn(source), said);
    assert.deepEqual([checked.text, checked.missing], [text, missing], source);
  }
  assert.equal(checkNumbers('the 5 cats', numbersIn('the 5 cats'), '5 Katzen 17').foreign, 1);
  assert.equal(checkNumbers('five cats', [], '5 Katzen').foreign, 0);
});

async function translate(text: string, say: Say, changes: Partial<TranslateSettings> = {}) {
  const engine = new SpeakingEngine(say);
  const { texts } = await translateTexts(
    { engine, tokenizer: new ByteTokenizer(), model: MODEL },
    [{ text, param: 'input' }],
    { ...SETTINGS, ...changes },
    { signal: new AbortController().signal, deadlineAtMs: null },
  );
  return { engine, result: texts[0] as (typeof texts)[number] };
}

test('the model sees stand-ins, the text has what they stand for', async () => {
  const { engine, result } = await translate('Hello {name}, see http://a.b/c.', (s) => [s.replace('Hello', 'Hallo')]);
  assert.deepEqual(engine.heard, ['Hello X1, see X2.']);
  assert.equal(result.text, 'Hallo {name}, see http://a.b/c.');
  const [sentence] = result.sentences;
  assert.equal(sentence?.source, 'Hello {name}, see http://a.b/c.');
  assert.equal(sentence?.tokens.map(({ text }) => text).join(''), 'Hallo X1, see X2.');
  assert.equal(sentence?.cost.lanes, 1);
});

test('a stand-in is no name of the text', async () => {
  const { engine, result } = await translate('The X1 of {name}', (s) => [s]);
  assert.deepEqual(engine.heard, ['The X1 of Q1']);
  assert.equal(result.text, 'The X1 of {name}');
});

test('a number that is lost is translated again as a stand-in, with a beam', async () => {
  const { engine, result } = await translate('In 1848 it rained.', (s, beam) =>
    beam === 1 ? ['Es regnete.'] : ['Es regnete.', s.replace('it rained', 'regnete es')],
  );
  assert.deepEqual(engine.heard, ['In 1848 it rained.', 'In X1 it rained.']);
  assert.equal(result.text, 'In 1848 regnete es.');
  assert.equal(result.sentences[0]?.cost.lanes, 2);
});

test('whatever the model says, spans and numbers stay', async () => {
  for (const say of [() => ['x'], () => [''], () => ['X1 X1 X2 7 8'], (s: string) => [s.replace(/\d/g, '9')]]) {
    const { result } = await translate('Hello {name}, you have 12 new messages at http://a.b/c since 1.5 days.', say);
    let from = 0;
    for (const kept of ['{name}', '12', 'http://a.b/c', '1.5']) {
      const at = result.text.indexOf(kept, from);
      assert.ok(at >= from, `${kept} in ${result.text}`);
      from = at + kept.length;
    }
  }
});

test('of several hypotheses the best that keeps everything is taken, at no further cost', async () => {
  const { result } = await translate(
    'You have 12 cats.',
    () => ['Katzen.', 'Du hast 12 Katzen.', '12 Katzen hast du.'],
    {
      beam: 3,
      alternatives: 2,
    },
  );
  assert.equal(result.text, 'Du hast 12 Katzen.');
  assert.deepEqual(
    result.alternatives.map(({ text }) => text),
    ['12 Katzen hast du.'],
  );
  assert.equal(result.sentences[0]?.cost.lanes, 1);
  assert.equal(result.sentences[0]?.result.hypotheses[0]?.score, -1.5);
});

test('a sentence that is longer than the context is cut at clauses and nothing is dropped', async () => {
  const words = Array.from({ length: 120 }, (_, i) => `word${'abcdefghij'[i % 10]}${i % 7 === 0 ? ',' : ''}`);
  const { engine, result } = await translate(`${words.join(' ')}.`, (s) => [s]);
  assert.ok(engine.heard.length >= 2);
  for (const heard of engine.heard) assert.ok(heard.length < MODEL.contextTokens);
  assert.equal(result.text, `${words.join(' ')}.`);
  assert.equal(result.sentences.length, 1);
  assert.equal(result.sentences[0]?.result.hypotheses[0]?.ids.length, result.sentences[0]?.tokens.length);
});

test('a translation may not be longer than the context, whatever is asked for', async () => {
  const { engine, result } = await translate('Hello.', (s) => [s], { maxNewTokens: 3 });
  assert.deepEqual(engine.translations[0]?.maxNewTokens, [3]);
  assert.equal(result.finishReason, 'length');
  const long = await translate(`${'Hello there '.repeat(30)}.`, (s) => [s]);
  assert.deepEqual(long.engine.translations[0]?.maxNewTokens, [MODEL.contextTokens]);
});
