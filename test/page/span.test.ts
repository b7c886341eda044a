import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BROWSER, open, serve, withBrowser } from './browser.js';

withBrowser();

test('span: without a model of that kind the view says what to do', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#span`);
  assert.match((await page.locator('#span-none').textContent()) ?? '', /No model with attention spans is served/);
  assert.equal(await page.locator('#span-body').isVisible(), false);
});
