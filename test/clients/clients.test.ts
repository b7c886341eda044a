/** Clients that people have, unchanged, against the server. What they are sent is compared with the contract elsewhere. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { translate } from 'libretranslate';
import { loadLanguageDetector } from '../../src/http/language-detector.js';
import { type FakeServer, fakeServer } from '../fakes.js';
import { CLIENT_SCRIPT, pythonWithClients } from './python.js';

let server: FakeServer;
let url = '';
before(async () => {
  server = await fakeServer([], { detector: await loadLanguageDetector() });
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  url = `http://127.0.0.1:${(server.app.server.address() as AddressInfo).port}`;
});
after(async () => {
  server.app.server.closeAllConnections();
  await server.app.close();
});

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

const found = pythonWithClients();
test('PyPI libretranslatepy and deep-translator', { skip: 'missing' in found && found.missing }, async () => {
  assert.ok('python' in found);
  const { stdout } = await promisify(execFile)(found.python, [CLIENT_SCRIPT, url]);
  const { detect, ...rest } = JSON.parse(stdout);
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
  assert.equal(detect[0].language, 'de');
  assert.ok(detect[0].confidence > 50 && detect[0].confidence <= 100);
});
