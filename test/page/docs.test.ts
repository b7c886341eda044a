import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BROWSER, newTab, serve, withBrowser } from './browser.js';

withBrowser();

test('/docs: an example runs from the page', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const page = await newTab(t, url);
  await page.goto(`${url}/docs`);
  const route = page.locator('.opblock', { hasText: '/v1/score' }).first();
  await route.locator('.opblock-summary-control').click();
  assert.match((await route.locator('.opblock-description').textContent()) ?? '', /curl -s http/);
  await route.getByRole('button', { name: 'Try it out' }).click();
  await route.getByRole('button', { name: 'Execute' }).click();
  await route.locator('.live-responses-table .response-col_status', { hasText: '200' }).waitFor();
  assert.equal(engine.requests.length, 1);
  // Swagger UI tries a style of its own when it shows a reply, and is as well without it.
  await page.evaluate(
    `window.violations = window.violations.filter((text) => !/^style-src-elem inline .*swagger-ui/.test(text))`,
  );
});
