/** Nothing that a client, a tokenizer, a model or a link says reaches the page as markup. `open` watches the policy itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteTokenizer, describeModel, describeTranslator, FakeEngine } from '../fakes.js';
import { BROWSER, open, said, serve, withBrowser } from './browser.js';

withBrowser();

const HOSTILE = `</span><img src=x onerror="alert(1)"><script>alert(2)</script><svg onload=alert(3)>`;

/** What a crafted tokenizer.json could make of a token. */
class HostileTokenizer extends ByteTokenizer {
  override tokenText(): string {
    return HOSTILE;
  }
}

const FOREIGN = 'main img, main script, main iframe, main [onerror], main [onload]';

test('a hostile prompt is shown as it is', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=${encodeURIComponent(HOSTILE)}`);
  await said(page, 'score', /tokens scored/);
  assert.equal((await page.locator('#score-tokens .token').allTextContents()).join('').replaceAll('␣', ' '), HOSTILE);
  assert.ok((await page.locator('#score-curl').textContent())?.includes(JSON.stringify(HOSTILE).slice(1, -1)));
  assert.equal(await page.locator(FOREIGN).count(), 0);
  await page.locator('#to-translate').click();
  await page.locator('#translate-text').fill(HOSTILE);
  await page.locator('#view-translate button[type=submit]').click();
  await said(page, 'translate', /^Translated/);
  assert.match((await page.locator('#translate-output').textContent()) ?? '', /<img src=x.*ALERT\(2\)/);
  assert.equal(await page.locator(FOREIGN).count(), 0);
});

test('tokens, names of models, refusals and links of others are text', BROWSER, async (t) => {
  const models = [describeModel({ id: HOSTILE }), describeTranslator({ id: `${HOSTILE}2`, targetLanguage: HOSTILE })];
  const engine = new FakeEngine(models);
  const tokenizers = new Map(models.map(({ id }) => [id, new HostileTokenizer()]));
  const { url } = await serve(t, [], { engine, tokenizers });
  const page = await open(t, `${url}/#score?text=ab&model=${encodeURIComponent(HOSTILE)}&max_steps=<b>`);
  await said(page, 'score', /tokens scored/);
  assert.deepEqual(await page.locator('#score-tokens .token').allTextContents(), [HOSTILE, HOSTILE]);
  assert.match((await page.locator('#score-candidates').textContent()) ?? '', /<script>/);
  assert.equal(await page.locator('#score-model').inputValue(), HOSTILE);
  await page.goto(`${url}/#translate?text=ab`);
  await said(page, 'translate', /^Translated/);
  assert.equal(await page.locator('#translate-languages').textContent(), `en → ${HOSTILE}`);
  engine.failWith(new Error(HOSTILE));
  await page.goto(`${url}/#${HOSTILE}?text=${HOSTILE}`);
  await page.locator('#score-said.failed').waitFor();
  assert.equal(await page.locator(FOREIGN).count(), 0);
});

test('characters that reorder or hide text are named instead', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/`);
  const shown = await page.evaluate(
    `import('/page/text.js').then(({ visible }) => visible('a\\u202eb\\u0000\\n\\u2066'))`,
  );
  assert.equal(shown, 'a⟨202E⟩b␀↵⟨2066⟩');
});

test('markup is refused by the browser itself, should a line of ours ever try', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/`);
  const refused = await page.evaluate(`(() => {
    try { document.body.innerHTML += '<b>x</b>'; return 'taken'; } catch (error) { return error.name; }
  })()`);
  assert.equal(refused, 'TypeError');
  await page.evaluate('window.violations.length = 0');
});

test('a command can be pasted into a shell whatever the text', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/`);
  const quoted = await page.evaluate(
    `import('/page/curl.js').then(({ quote }) => quote("a'; rm -rf $HOME \`x\` \\\\"))`,
  );
  assert.equal(quoted, `'a'\\''; rm -rf $HOME \`x\` \\'`);
});
