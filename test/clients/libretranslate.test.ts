/** Clients that people have, unchanged, against the server. What they are sent is compared with the contract elsewhere. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { translate } from 'libretranslate';
import { loadLanguageDetector } from '../../src/http/language-detector.js';
import { type Listening, listeningServer } from './listening.js';
import { pythonWith, runClient } from './python.js';

let server: Listening;
let url = '';
before(async () => {
  server = await listeningServer([], { detector: await loadLanguageDetector() });
  url = server.url;
});
after(() => server.close());

test('npm libretranslate', async () => {
  assert.equal(
    await translate({ apiurl: url, query: 'Hello & good-bye.', source: 'en', target: 'de' }),
    'hELLO & GOOD-BYE.',
  );
  const auto = await translate({ apiurl: url, apiKey: 'some key', query: 'The house is small.', target: 'de' });
  assert.equal(auto, 'tHE HOUSE IS SMALL.');
  const html = await translate({ apiurl: url, query: '<b>Hi</b>', source: 'en', target: 'de', format: 'html' });
  assert.equal(html, '<b>hI</b>');
  await assert.rejects(
    translate({ apiurl: url, query: 'a', source: 'en', target: 'fr' }),
    /This language was not found/,
  );
});

/** The snippets of the documentation, sent to the server of the test. */
const snippets = (language: string): string[] => {
  const page = readFileSync(new URL('../../../docs/clients-libretranslate.md', import.meta.url), 'utf8');
  return [...page.matchAll(/```(\w+)\n([\s\S]*?)```/g)]
    .filter(([, name]) => name === language)
    .map(([, , code = '']) => code.replaceAll('http://127.0.0.1:8080', url));
};

test('the snippet for npm in docs/clients-libretranslate.md', async () => {
  const [code = '', ...more] = snippets('js');
  assert.equal(more.length, 0);
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', code]);
  assert.equal(stdout, 'tHE HOUSE IS SMALL.\n');
});

interface Said {
  readonly detect: readonly { readonly language: string; readonly confidence: number }[];
}

const found = pythonWith(['libretranslatepy', 'deep_translator']);
test('PyPI libretranslatepy and deep-translator', { skip: 'missing' in found && found.missing }, async () => {
  assert.ok('python' in found);
  const { detect, ...rest } = (await runClient(found.python, 'libretranslate_clients.py', [url])) as Said;
  const languages = [
    { code: 'en', name: 'English', targets: ['de', 'en'] },
    { code: 'de', name: 'German', targets: ['de'] },
  ];
  assert.deepEqual(rest, {
    translate: 'hELLO & GOOD-BYE.',
    translate_with_key: 'tHE PRICE IS 100 %.\ntWO LINES; CAFé.',
    translate_auto: 'tHE HOUSE IS SMALL.',
    languages,
    languages_with_key: languages,
    deep: 'hELLO & GOOD-BYE.',
    deep_auto: 'tHE HOUSE IS SMALL.',
    deep_batch: ['gOOD MORNING.', 'wHAT TIME IS IT?'],
  });
  const [best] = detect;
  assert.equal(best?.language, 'de');
  assert.ok(best.confidence > 50 && best.confidence <= 100);
});

test('the snippets for Python in docs/clients-libretranslate.md', {
  skip: 'missing' in found && found.missing,
}, async () => {
  assert.ok('python' in found);
  const codes = snippets('python');
  assert.equal(codes.length, 2);
  for (const code of codes) {
    const { stdout }: { stdout: string } = await promisify(execFile)(found.python, ['-c', code]);
    assert.equal(stdout, 'tHE HOUSE IS SMALL.\n', code);
  }
});
