import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Route } from 'playwright-core';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { parseKeys } from '../../src/http/api-keys.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { BROWSER, newTab, open, said, serve, withBrowser } from './browser.js';

withBrowser();

const REFUSAL = { error: { code: 'KEY_MISSING', message: 'this server wants a key', type: 'auth', param: null } };

test('our own server with keys: the page comes without one, and everything else with it', BROWSER, async (t) => {
  const key = 'the-key-of-a-client-0123';
  const keys = new KeyRing(parseKeys(JSON.stringify([{ name: 'client', key }]), 'keys.json'), parseConfig([], {}), {
    monotonicMs,
    unixMs: Date.now,
  });
  const { url } = await serve(t, [], { keys });
  const page = await newTab(t, url);
  await page.goto(`${url}/#score?text=abc`);
  await page.locator('#key-dialog').waitFor();
  await page.locator('#key-input').fill(key);
  await page.keyboard.press('Enter');
  await said(page, 'score', /tokens scored/);
  await page.locator('#to-translate').click();
  await said(page, 'translate', /^Translated/);
  await page.locator('#to-span').click();
  await said(page, 'span', /bytes scored/);
  await page.locator('#to-live').click();
  await said(page, 'live', /idle|at work/);
  assert.equal(await page.locator('#key-dialog').isVisible(), false, 'asked for once');
});

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
  await page.route(/\/metrics/, guard);
  await page.locator('#to-live').click();
  await page.locator('#key-dialog').waitFor();
  await page.keyboard.press('Escape');
  await said(page, 'live', /this server wants a key/);
  await page.waitForTimeout(1200);
  assert.equal(await page.locator('#key-dialog').isVisible(), false, 'and does not ask every second');
});
