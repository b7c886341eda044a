/** What the tests of the page share: one browser a file, a fake server, and a tab that notes everything that goes wrong in it. */
import assert from 'node:assert/strict';
import type { AddressInfo } from 'node:net';
import { after, before, type TestContext } from 'node:test';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import type { FakeEngine, FakeServer } from '../fakes.js';
import { fakeServer } from '../fakes.js';
import { findChromium, launch } from './chromium.js';

const found = findChromium();

/** For `test`: skipped, with the reason, where there is no browser. */
export const BROWSER = { skip: 'missing' in found && found.missing, timeout: 60_000 };

let browser: Browser;

/** Starts the browser before the tests of this file, and ends it after them. */
export function withBrowser(): void {
  before(async () => {
    if ('program' in found) browser = await launch(found.program);
  });
  after(() => browser?.close());
}

export interface Served extends FakeServer {
  readonly url: string;
}

export async function serve(t: TestContext, ...options: Parameters<typeof fakeServer>): Promise<Served> {
  const server = await fakeServer(...options);
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    server.engine.openGate();
    server.app.server.closeAllConnections();
    await server.app.close();
  });
  return { ...server, url: `http://127.0.0.1:${(server.app.server.address() as AddressInfo).port}` };
}

const NOTE_VIOLATIONS = `
  window.violations = [];
  document.addEventListener('securitypolicyviolation', (event) => {
    window.violations.push(event.violatedDirective + ' ' + event.blockedURI + ' ' + event.sourceFile);
  });`;

/**
 * A tab. After the test nothing may have been thrown in it, refused by the content security policy or asked of another host than
 * that of `url`.
 */
export async function newTab(t: TestContext, url: string, options: BrowserContextOptions = {}): Promise<Page> {
  const context = await browser.newContext({ permissions: ['clipboard-read', 'clipboard-write'], ...options });
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(`threw ${error.stack ?? error.message}`));
  page.on('dialog', (dialog) => problems.push(`opened a dialog: ${dialog.message()}`));
  page.on('request', (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol !== 'data:' && host !== new URL(url).host) problems.push(`asked ${request.url()}`);
  });
  await page.addInitScript(NOTE_VIOLATIONS);
  t.after(async () => {
    const violations = await page.evaluate<string[]>('window.violations');
    await context.close();
    assert.deepEqual([...problems, ...violations], []);
  });
  return page;
}

/** A tab with the playground at this address, its views bound. */
export async function open(t: TestContext, url: string, options: BrowserContextOptions = {}): Promise<Page> {
  const page = await newTab(t, url, options);
  await page.goto(url);
  await page.locator('html[data-ready=true]').waitFor();
  return page;
}

/** Waits until the page says it has scored or translated. */
export async function said(page: Page, view: string, pattern: RegExp): Promise<void> {
  await page.locator(`#${view}-said`).filter({ hasText: pattern }).waitFor();
}

/** Asks the page until the expression holds; `waitForFunction` would need the eval that the policy forbids. */
export async function until(page: Page, expression: string): Promise<void> {
  while (!(await page.evaluate<boolean>(expression))) await new Promise(setImmediate);
}

/** The rows of a list of facts, by name. */
export async function facts(page: Page, list: string): Promise<Record<string, string>> {
  const names = await page.locator(`#${list} dt`).allTextContents();
  const values = await page.locator(`#${list} dd`).allTextContents();
  return Object.fromEntries(names.map((name, i) => [name, values[i] ?? '']));
}

/** Bodies of the requests that reached the engine, the last one last. */
export function lastScored(engine: FakeEngine): FakeEngine['requests'][number] {
  const request = engine.requests.at(-1);
  assert.ok(request, 'nothing was scored');
  return request;
}
