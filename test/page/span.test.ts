import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeSpanModel } from '../fake-span.js';
import { describeModel, FakeEngine } from '../fakes.js';
import { BROWSER, facts, open, said, serve, withBrowser } from './browser.js';

withBrowser();

// The fake model: layers of [5, 16] and [10, 61] keys, of 64 at most, with a ramp of 4.
const TEXT = 'abcdefghijklmnopqrst';

test('span: the grid of the model, and what each head had for one byte', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#span?text=${TEXT}`);
  await said(page, 'span', /^20 bytes scored/);
  const grid = page.locator('#span-grid-rows td');
  // Nineteen tokens and the start stand before the last byte; the one before it asks.
  assert.deepEqual(await grid.allTextContents(), ['5', '16', '10', '19']);
  assert.equal((await facts(page, 'span-facts'))['Mean span'], '23.0 of 64 keys');
  await page.locator('#span-tokens [role=option]').nth(7).hover();
  assert.deepEqual(await grid.allTextContents(), ['5', '7', '7', '7']);
  assert.equal(await page.locator('#span-token').textContent(), 'h');
  assert.equal((await facts(page, 'span-token-facts'))['Its heads look back'], '6.50 keys on average');
  assert.equal(await page.locator('#span-candidates li').count(), 5);
  // Of the bytes before it, the nearest are seen by all four heads, the first by three; what follows has no colour.
  const levels = await page
    .locator('#span-tokens .token')
    .evaluateAll((all) => all.map((token) => token.dataset.level));
  assert.deepEqual(levels.slice(0, 8), ['11', '15', '15', '15', '15', '15', '15', undefined]);
});

test('span: one head alone, by the list and by the grid; how surprising each byte is', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#span?text=${TEXT}`);
  await said(page, 'span', /bytes scored/);
  const coloured = page.locator('#span-tokens .token[data-level]');
  assert.equal(await coloured.count(), 19, 'some head sees each of them');
  await page.locator('#span-show').selectOption('0.0');
  assert.equal(await coloured.count(), 6, 'five keys, and the byte that asks');
  await page.locator('#span-grid-rows td').nth(2).click();
  assert.equal(await page.locator('#span-show').inputValue(), '1.0');
  assert.equal(await coloured.count(), 11);
  await page.locator('#span-show').selectOption('surprise');
  assert.equal(await coloured.count(), 20);
  assert.match(page.url(), /show=surprise/);
});

test('span: a cap scores again, shortens the grid, and comes back by the link', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const page = await open(t, `${url}/#span?text=${TEXT}`);
  await said(page, 'span', /bytes scored/);
  const asked = engine.streams.length;
  await page.locator('#span-cap').fill('3');
  await engine.arrived(asked + 1);
  await said(page, 'span', /bytes scored/);
  assert.equal(engine.streams.at(-1)?.spanCap, 3);
  assert.deepEqual(await page.locator('#span-grid-rows td').allTextContents(), ['5', '7', '7', '7']);
  const again = await open(t, page.url());
  await said(again, 'span', /bytes scored/);
  assert.equal(await again.locator('#span-cap').inputValue(), '3');
  assert.equal(await again.locator('#span-text').inputValue(), TEXT);
  assert.match((await again.locator('#span-curl').textContent()) ?? '', /"span_max":3/);
});

test('span: where each token has spans of its own, the mean of its heads is shown', BROWSER, async (t) => {
  const model = describeSpanModel();
  const dynamic = { ...model, span: { ...model.span, kind: 'dynamic' as const } };
  const { url } = await serve(t, [], { engine: new FakeEngine([describeModel(), dynamic]) });
  const page = await open(t, `${url}/`);
  await said(page, 'score', /tokens scored/);
  // The fake engine has no such tokens: the reply is given to the page here.
  await page.route(/\/v1\/score/, (route) =>
    route.fulfill({
      json: {
        model: dynamic.id,
        results: [
          {
            bits_per_byte: 1,
            span: { mean: 2 },
            tokens: [...'abcdef'].map((text, i) => ({
              text,
              logprob: -1,
              span: [9, 9, 9, 9, 1, 3][i],
              top_logprobs: [],
            })),
          },
        ],
        usage: { tokens: 6, keys: 12, keys_computed: 24, keys_full: 48 },
        timing: { queue_ms: 0, compute_ms: 1, total_ms: 1 },
      },
    }),
  );
  await page.goto(`${url}/#span?text=abcdef`);
  await said(page, 'span', /bytes scored/);
  assert.equal((await facts(page, 'span-token-facts'))['Its heads look back'], '3.00 keys on average');
  assert.equal((await facts(page, 'span-facts'))['Keys looked at, of full spans'], '25.0 %');
  assert.match((await page.locator('#span-grid-title').textContent()) ?? '', /the most that each head may look back/);
  assert.equal(await page.locator('#span-tokens .token[data-level]').count(), 4, 'three keys, and the byte that asks');
});

test('span: without a model of that kind the view says what to do', BROWSER, async (t) => {
  const { url } = await serve(t, [], { engine: new FakeEngine([describeModel()]) });
  const page = await open(t, `${url}/#span`);
  assert.match((await page.locator('#span-none').textContent()) ?? '', /No model with attention spans is served/);
  assert.equal(await page.locator('#span-body').isVisible(), false);
});
