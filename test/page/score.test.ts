import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BROWSER, facts, lastScored, open, said, serve, withBrowser } from './browser.js';

withBrowser();

test('score: tokens with their depth, the whole and one of them', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abc+de`);
  await said(page, 'score', /^6 tokens scored/);
  const tokens = page.locator('#score-tokens [role=option]');
  assert.deepEqual(await tokens.allTextContents(), ['a', 'b', 'c', '␣', 'd', 'e']);
  // The fake engine's depth is 1 + id % 5, its remainder id % 10 / 10.
  const depths = ['3', '4', '5', '3', '1', '2'];
  assert.deepEqual(await tokens.evaluateAll((all) => all.map((token) => token.getAttribute('data-figure'))), depths);
  assert.equal(await page.locator('#score-tokens [aria-selected=true]').textContent(), 'c', 'the deepest at first');
  assert.equal((await facts(page, 'score-facts'))['Mean depth'], '3.00 of 8');
  assert.equal((await facts(page, 'score-facts'))['Steps saved'], '63 %');
  await tokens.nth(1).hover();
  assert.equal(await page.locator('#score-token').textContent(), 'b');
  assert.deepEqual(await facts(page, 'score-token-facts'), {
    'Log-probability': '−0.333 nats',
    Probability: '71.7 %',
    'Depth N': '4',
    'Remainder R': '0.800',
  });
  assert.equal(await page.locator('#score-candidates li').count(), 5);
  assert.equal(await page.locator('#score-histogram li').count(), 8);
  assert.match((await page.locator('#score-histogram').textContent()) ?? '', /2 tokens took 3 steps/);
});

test('score: by keyboard alone', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abcdefgh`);
  await said(page, 'score', /tokens scored/);
  const focused = (): Promise<string | null> => page.evaluate('document.activeElement.textContent');
  await page.locator('#score-tokens [tabindex="0"]').focus();
  await page.keyboard.press('Home');
  assert.equal(await focused(), 'a');
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  assert.equal(await focused(), 'c');
  assert.equal(await page.locator('#score-token').textContent(), 'c');
  await page.keyboard.press('End');
  assert.equal(await focused(), 'h');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await focused(), 'g');
  assert.equal(await page.locator('#score-tokens [tabindex="0"]').count(), 1, 'one of them is in the tab order');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate('document.activeElement.closest("#score-tokens")'), null);
});

test('score: down and up go to the nearest token of the next line', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=${'abcdefghij'.repeat(20)}`, {
    viewport: { width: 375, height: 800 },
  });
  await said(page, 'score', /tokens scored/);
  // From the first token on: where the strip itself lies may change while the rest of the view is still being drawn.
  const place = (): Promise<{ x: number; y: number }> =>
    page.evaluate(`(() => {
      const [first, active] = [document.querySelector('#score-tokens [role=option]'), document.activeElement].map((e) => e.getBoundingClientRect());
      return { x: active.x - first.x, y: active.y - first.y };
    })()`);
  await page.locator('#score-tokens [role=option]').nth(4).click();
  const before = await place();
  await page.keyboard.press('ArrowDown');
  const below = await place();
  assert.ok(below.y > before.y && Math.abs(below.x - before.x) < 20, JSON.stringify([before, below]));
  await page.keyboard.press('ArrowUp');
  assert.deepEqual(await place(), before);
});

test('score: a slider scores again with the new budget; what was asked before is given up', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const page = await open(t, `${url}/#score?text=abcde`);
  await said(page, 'score', /tokens scored/);
  const asked = engine.requests.length;
  engine.shutGate();
  await page.locator('#score-steps').fill('3');
  await engine.arrived(asked + 1);
  await page.locator('#score-steps').fill('2');
  await engine.arrived(asked + 2);
  engine.openGate();
  await page.locator('#score-facts').filter({ hasText: 'of 8' }).waitFor();
  await said(page, 'score', /tokens scored/);
  assert.equal(engine.active, 0);
  assert.equal(lastScored(engine).budget.maxSteps, 2);
  assert.equal(lastScored(engine).budget.threshold, 0.99);
  await page.locator('#score-threshold').fill('0.5');
  await engine.arrived(asked + 3);
  assert.equal(lastScored(engine).budget.threshold, 0.5);
  await page.locator('#score-reset').click();
  await engine.arrived(asked + 4);
  assert.deepEqual(lastScored(engine).budget, { maxSteps: 8, minSteps: 1, threshold: 0.99 });
});

test('score: settings that were tried add up to a curve; a sweep tries every number of steps', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=abcde`);
  await said(page, 'score', /tokens scored/);
  assert.equal(await page.locator('#score-curve circle').count(), 1);
  await page.locator('#score-sweep').click();
  await said(page, 'score', /Tried 8 numbers of steps/);
  assert.equal(await page.locator('#score-curve circle').count(), 8);
  const rows = await page.locator('#score-curve-rows tr').allTextContents();
  assert.equal(rows.length, 8);
  assert.match(rows[0] ?? '', /^10\.991\.00/, 'one step: mean depth 1');
  assert.match((await page.locator('#score-curve').getAttribute('aria-label')) ?? '', /8 settings; now max_steps 8/);
  await page.locator('#score-text').fill('other');
  await page.keyboard.press('Control+Enter');
  await said(page, 'score', /tokens scored/);
  assert.equal(await page.locator('#score-curve circle').count(), 1, 'another text begins another curve');
});

test('score: a link brings text and budget back, and the command says the same', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const first = await open(t, `${url}/`);
  await said(first, 'score', /tokens scored/);
  await first.locator('#score-text').fill('it\'s <b> & "quoted" 100 %\nü');
  await first.locator('#score-steps').fill('4');
  await first.locator('#score-threshold').fill('0.7');
  await first.locator('#view-score button[type=submit]').click();
  await said(first, 'score', /tokens scored/);
  await first.locator('#score-copy-link').click();
  await first.locator('#score-copy-link').filter({ hasText: 'Copied' }).waitFor();
  const link = await first.evaluate<string>('navigator.clipboard.readText()');
  const second = await open(t, link);
  await said(second, 'score', /tokens scored/);
  assert.equal(await second.locator('#score-text').inputValue(), 'it\'s <b> & "quoted" 100 %\nü');
  assert.equal(await second.locator('#score-steps').inputValue(), '4');
  assert.deepEqual(lastScored(engine).budget, { maxSteps: 4, minSteps: 1, threshold: 0.7 });
  const command = (await second.locator('#score-curl').textContent()) ?? '';
  assert.equal(await first.locator('#score-curl').textContent(), command);
  assert.ok(
    command.startsWith(`curl -s '${url}/v1/score' \\\n  -H 'content-type: application/json' \\\n  -d '{`),
    command,
  );
});

test("score: the server's refusal is said as it is; a text is asked for when there is none", BROWSER, async (t) => {
  const { url } = await serve(t, ['--text-bytes-max', '10']);
  const page = await open(t, `${url}/#score?text=${'x'.repeat(11)}`);
  await said(page, 'score', /input exceeds 10 bytes: .*--text-bytes-max/);
  assert.ok(await page.locator('#score-said.failed').isVisible());
  await page.locator('#score-text').fill('');
  await page.locator('#view-score button[type=submit]').click();
  await said(page, 'score', /Write a text/);
});

test('score: of a very long text the beginning is drawn, and the rest counted', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=${'x'.repeat(4321)}`);
  await said(page, 'score', /^4,321 tokens scored/);
  assert.equal(await page.locator('#score-tokens [role=option]').count(), 4000);
  assert.match((await page.locator('#score-more').textContent()) ?? '', /^and 321 tokens more/);
});
