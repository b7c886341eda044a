import assert from 'node:assert/strict';
import { test } from 'node:test';
import { stageReport } from '../metrics/reports.js';
import { BROWSER, open, said, serve, withBrowser } from './browser.js';

withBrowser();

test('live: the figures are those of the metrics, while the view is open', BROWSER, async (t) => {
  const { url, app, engine } = await serve(t);
  const page = await open(t, `${url}/#live`);
  await said(page, 'live', /idle/);
  await app.inject({ method: 'POST', url: '/v1/score', payload: { model: 'fake', input: 'abc' } });
  // 8 positions halted after 20 steps, with 6 renewals.
  engine.report(stageReport());
  await page.locator('#live-depth').filter({ hasText: '2.50' }).waitFor();
  assert.equal(await page.locator('#live-share').textContent(), '95 %');
  assert.equal(await page.locator('#live-queue').textContent(), '5');
  assert.equal(await page.locator('#live-queue-beside').textContent(), '6 sequences running, 0 requests in work');
  assert.ok(Number(await page.locator('#live-throughput').textContent()) > 0);
  assert.match((await page.locator('#live-latency').textContent()) ?? '', /ms$/);
  assert.match((await page.locator('#live-stacks').textContent()) ?? '', /^mscore/);
  assert.ok((await page.locator('#live-depth-line path').count()) > 0, 'a line was drawn');
  await page.locator('#live-pause').click();
  let asked = 0;
  page.on('request', (request) => {
    if (request.url().endsWith('/metrics')) asked++;
  });
  await page.locator('#live-pause').click();
  await page.waitForRequest(/\/metrics$/);
  await page.locator('#to-span').click();
  const before = asked;
  await page.waitForTimeout(1200);
  assert.equal(asked, before, 'a view that is closed asks for nothing');
});

test('live: what two scrapes say of the time between', BROWSER, async (t) => {
  const { url } = await serve(t);
  const page = await open(t, `${url}/#score?text=a`);
  const read = (expression: string): Promise<unknown> =>
    page.evaluate(`import('/page/prometheus.js').then(({ parseScrape, moved, quantile, sumOf, labelValues }) => {
      const before = parseScrape('# HELP a b\\na_total{m="x\\\\"y",n="1"} 3\\na_total{m="z"} 4 1700000000\\nbad line\\n'
        + 'h_bucket{le="1"} 0\\nh_bucket{le="2"} 10\\nh_bucket{le="+Inf"} 10\\n');
      const after = parseScrape('a_total{m="x\\\\"y",n="1"} 5\\na_total{m="z"} 1\\n'
        + 'h_bucket{le="1"} 5\\nh_bucket{le="2"} 25\\nh_bucket{le="+Inf"} 25\\n');
      return ${expression};
    })`);
  assert.equal(await read('sumOf(before, "a_total")'), 7);
  assert.deepEqual(await read('labelValues(before, "a_total", "m")'), ['x"y', 'z']);
  assert.equal(await read('moved(before, after, "a_total", { m: "x\\"y" })'), 2);
  assert.equal(await read('moved(before, after, "a_total", { m: "z" })'), 1, 'a counter that fell was started anew');
  // 15 values: 5 up to 1, 10 from 1 to 2; the middle one is 2.5 into the second bucket of 10.
  assert.equal(await read('quantile(before, after, "h", 0.5)'), 1.25);
  assert.ok(Number.isNaN(await read('quantile(after, after, "h", 0.5)')));
});
