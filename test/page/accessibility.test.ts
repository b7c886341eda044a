/** axe-core over every view, in light and dark and on a phone; and what it can't see. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import type { Page } from 'playwright-core';
import { BROWSER, open, said, serve, withBrowser } from './browser.js';

withBrowser();

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const TEXT = 'abcdefghijklmnopqrstuvwxyz ABC 0123';

async function violations(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(`axe.run().then(({ violations }) => violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => id + ' at ' + target + ': ' + failureSummary)))`);
}

const VIEWS: readonly (readonly [string, RegExp])[] = [
  [`score?text=${TEXT}`, /tokens scored/],
  [`translate?text=${TEXT}&alternatives=2`, /^Translated/],
  [`span?text=${TEXT}`, /bytes scored/],
  ['live', /idle|at work/],
];

for (const [place, done] of VIEWS) {
  const [view = ''] = place.split('?');
  test(`axe finds nothing in ${view}: light on a desk, dark on a phone`, BROWSER, async (t) => {
    const { url } = await serve(t);
    const page = await open(t, `${url}/#${place}`, { reducedMotion: 'reduce' });
    await said(page, view, done);
    for (const [colorScheme, width] of [
      ['light', 1280],
      ['dark', 375],
    ] as const) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 800 });
      assert.deepEqual(await violations(page), [], `${colorScheme}, ${width} pixels wide`);
      assert.equal(await page.evaluate('document.documentElement.scrollWidth'), width, 'nothing scrolls sideways');
    }
  });
}

test('the key dialog is accessible too', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abc`);
  await said(page, 'score', /tokens scored/);
  await page.route(/\/v1\//, (route) => route.fulfill({ status: 401, json: { error: { message: 'a key, please' } } }));
  await page.locator('#view-score button[type=submit]').click();
  await page.locator('#key-dialog').waitFor();
  assert.deepEqual(await violations(page), []);
});

test('every level of colour carries its ink with a contrast of 4.5, light and dark', BROWSER, async (t) => {
  const { url } = await serve(t);
  for (const colorScheme of ['light', 'dark'] as const) {
    const page = await open(t, `${url}/#score?text=a`, { colorScheme });
    await said(page, 'score', /tokens scored/);
    const contrasts = await page.evaluate<number[]>(`[...Array(16).keys()].map((level) => {
      const token = document.querySelector('.token');
      token.dataset.level = level;
      const luminance = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
          .map((part) => part / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const { color, backgroundColor } = getComputedStyle(token);
      const [low, high] = [luminance(color), luminance(backgroundColor)].sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05);
    })`);
    for (const [level, contrast] of contrasts.entries())
      assert.ok(contrast >= 4.5, `${colorScheme} ${level}: ${contrast}`);
  }
});

test('the theme can be chosen, and is remembered', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=a`, { colorScheme: 'light' });
  const paper = (): Promise<string> => page.evaluate('getComputedStyle(document.documentElement).backgroundColor');
  const light = await paper();
  const button = page.locator('#theme');
  await button.click();
  await button.click();
  assert.equal(await button.textContent(), 'Theme: dark');
  const dark = await paper();
  assert.notEqual(dark, light);
  await page.reload();
  await page.locator('html[data-ready=true]').waitFor();
  assert.equal(await paper(), dark);
});
