import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Route } from 'playwright-core';
import { BROWSER, open, said, serve, withBrowser } from './browser.js';

withBrowser();

const REFUSAL = { error: { code: 'KEY_MISSING', message: 'this server wants a key', type: 'auth', param: null } };

/** A server that wants the key `right`, as any proxy in front of ours may. */
async function guard(route: Route): Promise<void> {
  const key = (await route.request().headerValue('authorization')) ?? '';
  if (key === 'Bearer right') await route.fallback();
  else await route.fulfill({ status: 401, json: REFUSAL });
}

test('a server that wants a key: it is asked for once, kept for the tab, and never shown', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abc`);
  await said(page, 'score', /tokens scored/);
  await page.route(/\/v1\/|\/metrics/, guard);
  await page.locator('#view-score button[type=submit]').click();
  const dialog = page.locator('#key-dialog');
  await dialog.waitFor();
  assert.match((await dialog.textContent()) ?? '', /this server wants a key/);
  await page.locator('#key-input').fill('right');
  await page.keyboard.press('Enter');
  await said(page, 'score', /tokens scored/);
  assert.equal(await page.evaluate('sessionStorage.getItem("ponder-key")'), 'right');
  assert.equal(await page.evaluate('localStorage.getItem("ponder-key")'), null);
  const command = (await page.locator('#score-curl').textContent()) ?? '';
  assert.match(command, /-H "authorization: Bearer \$PONDER_KEY"/);
  assert.doesNotMatch((await page.content()) + page.url(), /right['"]/);
  await page.locator('#score-steps').fill('2');
  await page.locator('#score-facts').filter({ hasText: '2' }).waitFor();
  assert.equal(await dialog.isVisible(), false, 'asked for once');
});

test('a wrong key is forgotten; going on without one says why nothing comes', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abc`);
  await said(page, 'score', /tokens scored/);
  await page.route(/\/v1\//, guard);
  await page.locator('#view-score button[type=submit]').click();
  await page.locator('#key-input').fill('wrong');
  await page.locator('#key-dialog .primary').click();
  await said(page, 'score', /this server wants a key/);
  await page.locator('#view-score button[type=submit]').click();
  await page.locator('#key-dialog').waitFor();
  assert.equal(await page.evaluate('sessionStorage.getItem("ponder-key")'), null);
  await page.keyboard.press('Escape');
  await said(page, 'score', /this server wants a key/);
});
