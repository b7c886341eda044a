/** A few texts through the package in git, models/ut-mt-ende. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseConfig } from '../../src/config.js';
import { type StartedEngine, startEngine } from '../../src/engine/start.js';
import type { ModelDescription } from '../../src/models/description.js';
import { loadModels } from '../../src/models/registry.js';
import { loadTokenizer } from '../../src/tokenize/tokenizer.js';
import type { Tokenizer } from '../../src/tokenize/types.js';
import { translateTexts } from '../../src/translate/translate-texts.js';
import type { TranslateSettings } from '../../src/translate/types.js';
import { SETTINGS } from './speaking-engine.js';

let engine: StartedEngine;
let model: ModelDescription;
let tokenizer: Tokenizer;

before(async () => {
  const folder = fileURLToPath(new URL('../../../models', import.meta.url));
  const loaded = await loadModels({ folder, only: ['ut-mt-ende'], precision: 'int8' });
  model = loaded.models[0] as ModelDescription;
  tokenizer = await loadTokenizer(model.folder, model.vocabularySize);
  engine = await startEngine(parseConfig(['--threads', '1', '--queue-wait-ms-max', '600000'], {}), [model]);
});
after(() => engine.drain(0));

async function translate(text: string, changes: Partial<TranslateSettings> = {}) {
  const { texts } = await translateTexts(
    { engine, tokenizer, model },
    [{ text, param: 'input' }],
    { ...SETTINGS, ...changes },
    {
      signal: new AbortController().signal,
      deadlineAtMs: null,
    },
  );
  return texts[0] as (typeof texts)[number];
}

test('a paragraph with placeholders, addresses and numbers', async () => {
  const { text, sentences } = await translate(
    'Hello {name}, you have {count} new messages.\n\nPlease visit https://www.example.com/path?x=1 for more information. He has 3 dogs.\n',
  );
  assert.equal(
    text,
    'Hallo {name}, du hast {count} neue Nachrichten.\n\nBitte besuchen Sie https://www.example.com/path?x=1 für weitere Informationen. Er hat 3 Hunde.\n',
  );
  assert.equal(sentences.length, 3);
});

test('tags around their words', async () => {
  const { text } = await translate(
    '<p>Click the <b>red</b> button to <i>start</i> the machine. Use <code>npm i</code>.</p>',
    {
      format: 'html',
    },
  );
  assert.match(text, /^<p>.*<b>rot\w*<\/b>.*<i>start\w*<\/i>.*<code>npm i<\/code>.*<\/p>$/);
});

test('a sentence longer than the context is translated in parts', async () => {
  const clause = 'the old man went to the market and bought some bread for his wife';
  const { text, sentences } = await translate(`Yesterday ${Array.from({ length: 14 }, () => clause).join(', and ')}.`);
  assert.equal(sentences.length, 1);
  const { cost, result } = sentences[0] as (typeof sentences)[number];
  assert.ok(cost.lanes >= 2);
  assert.ok(result.encoderDepths.length > model.contextTokens);
  assert.ok((text.match(/Brot/g) ?? []).length >= 5, text);
});

test('what the shipped tokenizer makes of odd text comes back whole', async () => {
  for (const text of ['x'.repeat(100_000), '\0\u0001', '🎉', 'Привет', ' \n ', '']) {
    assert.ok((await translate(text)).text === text);
  }
  for (const kept of ['東京', '\0', '\ud800', '🎉']) {
    const { text } = await translate(`The word ${kept} is not known.`);
    assert.ok(text.includes(kept), text);
  }
});
