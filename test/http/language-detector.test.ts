import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import {
  choose,
  guessingDetector,
  type LanguageDetector,
  loadLanguageDetector,
} from '../../src/http/language-detector.js';

let detector: LanguageDetector;
before(async () => {
  detector = await loadLanguageDetector();
});

const SERVED = ['en', 'de'] as const;
const languageOf = (...texts: string[]): string | undefined => detector.detect(texts, SERVED)[0]?.language;

test('English and German, short and long', () => {
  for (const text of ['Good morning', 'The house is small.', 'I have no idea what you mean.', 'How are you?']) {
    assert.equal(languageOf(text), 'en', text);
  }
  for (const text of ['Guten Morgen', 'Das Haus ist klein.', 'Ich weiß nicht, was du meinst.', 'Wie geht es dir?']) {
    assert.equal(languageOf(text), 'de', text);
  }
});

test('languages that are not served are named when they are clear', () => {
  const sentences: Readonly<Record<string, string>> = {
    fr: "Bonjour tout le monde, comment allez-vous aujourd'hui ?",
    es: 'El perro corre en el parque y la niña lo mira.',
    nl: 'Ik weet niet wat ik morgen moet doen.',
    pl: 'Nie wiem, co mam jutro robić.',
    ru: 'Доброе утро, как дела?',
    ja: 'おはようございます。',
  };
  for (const [language, text] of Object.entries(sentences)) assert.equal(languageOf(text), language, text);
});

test('what tells nothing is a guess: the first language served, with no confidence', () => {
  for (const text of ['', '   ', '12345', '😀', '!?', '\u0000']) {
    assert.deepEqual(detector.detect([text], SERVED), [{ language: 'en', confidence: 0 }], JSON.stringify(text));
  }
  assert.deepEqual(guessingDetector.detect(['Guten Tag'], ['en']), [{ language: 'en', confidence: 0 }]);
});

test('texts are taken together, markup is not taken for words, and length costs nothing', () => {
  assert.equal(languageOf('Haus', 'Ich habe dem Mann das Buch gegeben.'), 'de');
  assert.equal(
    languageOf(
      '<div class="container the of and"><span title="with all these words">Wie geht es dir heute?</span></div>',
    ),
    'de',
  );
  const startedMs = performance.now();
  languageOf('<'.repeat(1e6));
  languageOf('Das Haus ist klein. '.repeat(50_000));
  assert.ok(performance.now() - startedMs < 500);
});

test('a served language wins unless another is clearly better, and the list falls', () => {
  const languages = (found: readonly { language: string }[]): string[] => found.map(({ language }) => language);
  assert.deepEqual(languages(choose({ nl: 0.8, de: 0.7, en: 0.2 }, true, ['en', 'de'])), ['de', 'en']);
  assert.deepEqual(languages(choose({ nl: 0.8, de: 0.6 }, true, ['en', 'de'])), ['nl', 'de']);
  assert.deepEqual(languages(choose({ nl: 0.8, de: 0.6 }, false, ['en', 'de'])), ['de']);
  assert.deepEqual(choose({ it: 0.7 }, false, ['en', 'de']), [{ language: 'en', confidence: 0 }]);
});
