import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BROWSER, facts, open, said, serve, withBrowser } from './browser.js';

withBrowser();

test('translate: the text grows as the events come; source and target with their depths', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  engine.sentencesFree = 1;
  engine.shutGate();
  const page = await open(t, `${url}/#translate?text=Good+morning.+Sleep+well.`);
  await page.locator('#translate-output').filter({ hasText: 'gOOD MORNING.' }).waitFor();
  assert.equal(await page.locator('#view-translate').getAttribute('aria-busy'), 'true');
  engine.openGate();
  await said(page, 'translate', /^Translated in/);
  assert.equal(await page.locator('#translate-output').textContent(), 'gOOD MORNING. sLEEP WELL.');
  assert.equal(await page.locator('#translate-languages').textContent(), 'en → de');
  const target = page.locator('#translate-target [role=option]');
  assert.equal((await target.allTextContents()).join(''), 'gOOD␣MORNING.sLEEP␣WELL.');
  assert.equal(await page.locator('#translate-source [role=option]').count(), 24);
  await target.first().hover();
  assert.equal(await page.locator('#translate-token').textContent(), 'g');
  // 1 + 103 % 5
  assert.equal((await facts(page, 'translate-token-facts'))['Depth N in the decoder'], '4');
  assert.match((await facts(page, 'translate-facts'))['Steps saved'] ?? '', /^\d\d %$/);
  assert.equal(await page.locator('#translate-encoder-histogram li').count(), 6);
});

test('translate: alternatives and budget go with the request and into the link', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const page = await open(t, `${url}/#translate?text=Hello&alternatives=2&max_steps=4`);
  await said(page, 'translate', /^Translated in/);
  assert.deepEqual(await page.locator('#translate-others li span:first-child').allTextContents(), [
    'hELLO!',
    'hELLO!!',
  ]);
  assert.equal(engine.translations.at(-1)?.beam, 3);
  assert.equal(engine.translations.at(-1)?.decoderBudget.maxSteps, 4);
  const asked = engine.translations.length;
  await page.locator('#translate-alternatives').selectOption('0');
  await engine.arrived(engine.requests.length + asked + 1);
  await said(page, 'translate', /^Translated in/);
  assert.equal(await page.locator('#translate-others-title').isVisible(), false);
  assert.match(page.url(), /#translate\?max_steps=4&text=Hello$/);
});

test('translate: leaving the view hangs up, and the engine hears of it; coming back asks again', BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  engine.shutGate();
  const page = await open(t, `${url}/#translate?text=Hello`);
  await engine.arrived(1);
  assert.equal(engine.active, 1);
  await page.locator('#to-score').click();
  await engine.arrived(2);
  while (engine.active > 1) await new Promise(setImmediate);
  assert.equal(engine.requests.length, 1, 'what is left is the score');
  engine.openGate();
  await page.locator('#to-translate').click();
  await said(page, 'translate', /^Translated in/);
});
