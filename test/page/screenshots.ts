/**
 * `npm run screenshots`: the pictures of README and docs/, taken of the page of a real server with the shipped models. The text of a
 * link makes the view, so a picture can be taken again by hand.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, statSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { said } from './browser.js';
import { findChromium, launch } from './chromium.js';

/** Compiled tests lie in dist/test. */
const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const FOLDER = fileURLToPath(new URL('../../../docs/images/', import.meta.url));
const DESK = { viewport: { width: 1280, height: 860 } };
const PHONE = { viewport: { width: 375, height: 760 }, colorScheme: 'dark' } as const;

async function main(): Promise<void> {
  const found = findChromium();
  if ('missing' in found) throw new Error(found.missing);
  mkdirSync(FOLDER, { recursive: true });
  const { server, url } = await startServer();
  const browser = await launch(found.program);
  try {
    await score(browser, url);
    await translate(browser, url);
    await span(browser, url);
    await live(browser, url);
  } finally {
    await browser.close();
    server.kill('SIGTERM');
    await once(server, 'exit');
  }
}

async function score(browser: Browser, url: string): Promise<void> {
  const page = await open(browser, `${url}/#score`, DESK);
  await said(page, 'score', /tokens scored/);
  await page.locator('#score-sweep').click();
  await said(page, 'score', /^Tried/);
  await page.locator('#score-tokens .token').nth(6).click();
  await take(page, 'score');
  await element(page, '#score-tokens', 'depth');
  await element(page, '[aria-labelledby=score-quality]', 'curve');
  const tight = await open(browser, `${url}/#score?max_steps=2`, DESK);
  await said(tight, 'score', /tokens scored/);
  await element(tight, '#score-tokens', 'depth-two-steps');
  const phone = await open(browser, `${url}/#score`, PHONE);
  await said(phone, 'score', /tokens scored/);
  await phone.evaluate('scrollTo(0, document.getElementById("score-said").offsetTop - 16)');
  await phone.screenshot({ path: `${FOLDER}phone.png` });
  report('phone');
}

async function translate(browser: Browser, url: string): Promise<void> {
  const page = await open(browser, `${url}/#translate?alternatives=2`, DESK);
  await said(page, 'translate', /^Translated/);
  await page.locator('#translate-target .token').nth(3).click();
  await take(page, 'translate');
}

async function span(browser: Browser, url: string): Promise<void> {
  const page = await open(browser, `${url}/#span`, DESK);
  await said(page, 'span', /bytes scored/);
  await take(page, 'span');
}

/** With something to see: texts are scored and translated for as long as it takes. */
async function live(browser: Browser, url: string): Promise<void> {
  const page = await open(browser, `${url}/#live`, DESK);
  const input = 'The weather was fine, and the two of them walked along the river until it became dark. '.repeat(4);
  const until = performance.now() + 20_000;
  const client = async (path: string, body: object): Promise<void> => {
    while (performance.now() < until) {
      const reply = await fetch(`${url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      await reply.arrayBuffer();
    }
  };
  const work = Promise.all([
    client('/v1/score', { model: 'ut-lm-en', input: [input, input] }),
    client('/v1/score', { model: 'ut-lm-en', input }),
    client('/v1/translate', { input }),
  ]);
  await page.waitForTimeout(until - performance.now() - 1000);
  await take(page, 'live');
  await work;
}

async function open(browser: Browser, url: string, options: BrowserContextOptions): Promise<Page> {
  const page = await (
    await browser.newContext({ colorScheme: 'light', reducedMotion: 'reduce', ...options })
  ).newPage();
  await page.goto(url);
  await page.locator('html[data-ready=true]').waitFor();
  return page;
}

async function take(page: Page, name: string): Promise<void> {
  await page.evaluate('scrollTo(0, 0)');
  await page.screenshot({ path: `${FOLDER}${name}.png` });
  report(name);
}

async function element(page: Page, selector: string, name: string): Promise<void> {
  await page.locator(selector).screenshot({ path: `${FOLDER}${name}.png` });
  report(name);
}

/** Fewer colours make a third of the size: Debian's pngquant does that, and without it the pictures are only larger. */
function report(name: string): void {
  spawnSync('pngquant', ['--force', '--ext', '.png', '--strip', '128', `${FOLDER}${name}.png`]);
  process.stdout.write(`docs/images/${name}.png: ${statSync(`${FOLDER}${name}.png`).size} bytes\n`);
}

async function startServer(): Promise<{ server: ChildProcess; url: string }> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  const argv = [MAIN, 'serve', '--port', String(port), '--log-level', 'warn', ...process.argv.slice(2)];
  const server = spawn(process.execPath, argv, { stdio: ['ignore', 'inherit', 'inherit'] });
  const url = `http://127.0.0.1:${port}`;
  while (server.exitCode === null) {
    const ready = await fetch(`${url}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ready) return { server, url };
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`the server ended with ${server.exitCode}`);
}

await main();
