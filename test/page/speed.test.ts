/** What the page may cost: bytes, time to the first paint, time to draw a reply. The limits are the project's, the figures are printed. */
import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BROWSER, open, said, serve, until, withBrowser } from './browser.js';

withBrowser();

const BYTES_MAX = 150_000;
const FIRST_PAINT_MS_MAX = 1000;
const REPAINT_MS_MAX = 100;
const FOLDER = fileURLToPath(new URL('../../src/page', import.meta.url));

/**
 * A time is judged by the best of several, because the suite's own tests may hold the cores for a moment; and not at all while the
 * machine has several times the work it has cores for, when it says nothing about the page. It is printed either way.
 */
function judge(t: TestContext, what: string, times: readonly number[], limitMs: number): void {
  const [load = 0] = loadavg();
  t.diagnostic(`${what} after ${times.map((ms) => ms.toFixed(0)).join(', ')} ms, load ${load.toFixed(1)}`);
  if (load > 3 * availableParallelism()) t.skip(`not judged at a load of ${load.toFixed(1)}`);
  else assert.ok(Math.min(...times) < limitMs, `${what}: ${times} ms`);
}

test(`all files of the page together are under ${BYTES_MAX} bytes compressed`, (t) => {
  for (const ending of ['.br', '.gz']) {
    const files = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith(ending));
    const bytes = files.reduce((sum, file) => sum + statSync(`${FOLDER}/${file}`).size, 0);
    t.diagnostic(`${files.length} files, ${bytes} bytes as ${ending}`);
    assert.ok(files.length > 20 && bytes < BYTES_MAX, `${bytes} bytes`);
  }
});

test('what is sent is compressed, and other encodings are served as well', async (t) => {
  const { app } = await serve(t);
  const ask = (encoding: string) => app.inject({ url: '/', headers: { 'accept-encoding': encoding } });
  const [brotli, gzip, plain] = await Promise.all(['br, gzip', 'gzip', 'identity'].map(ask));
  assert.equal(brotli?.headers['content-encoding'], 'br');
  assert.equal(gzip?.headers['content-encoding'], 'gzip');
  assert.equal(plain?.headers['content-encoding'], undefined);
  assert.match(plain?.body ?? '', /^<!doctype html>/);
  assert.equal(brotli?.headers.vary, 'accept-encoding');
  const policy = String(brotli?.headers['content-security-policy']);
  assert.match(policy, /default-src 'none'; script-src 'self'; style-src 'self'/);
  assert.doesNotMatch(policy, /unsafe|https?:|\*/);
  assert.equal((await app.inject('/page/../main.js')).statusCode, 404);
  assert.equal((await app.inject('/page/none.js')).json().error.code, 'NOT_FOUND');
});

test(`the first paint comes within ${FIRST_PAINT_MS_MAX} ms`, BROWSER, async (t) => {
  const { url } = await serve(t);
  const paints: number[] = [];
  for (let visit = 0; visit < 3; visit++) {
    const page = await open(t, `${url}/`);
    paints.push(await page.evaluate<number>(`performance.getEntriesByName('first-contentful-paint')[0].startTime`));
  }
  judge(t, 'first contentful paint', paints, FIRST_PAINT_MS_MAX);
});

test(`500 tokens are drawn within ${REPAINT_MS_MAX} ms of the reply`, BROWSER, async (t) => {
  const { url, engine } = await serve(t);
  const page = await open(t, `${url}/#score?text=${'abcd+efgh+'.repeat(50)}`);
  await said(page, 'score', /^500 tokens scored/);
  for (let steps = 7; steps >= 3; steps--) {
    const asked = engine.requests.length;
    await page.locator('#score-steps').fill(String(steps));
    await engine.arrived(asked + 1);
    await until(page, `performance.getEntriesByName('score-repaint').length > ${7 - steps + 1}`);
  }
  const durations = await page.evaluate<number[]>(
    `performance.getEntriesByName('score-repaint').slice(1).map(({ duration }) => duration)`,
  );
  judge(t, 'drawn', durations, REPAINT_MS_MAX);
});
