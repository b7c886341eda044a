/** Alert rules by promtool, and the board's queries by a Prometheus that scrapes a running server. Both come with Debian's `prometheus`. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startServer } from '../../loadtest/server.js';

const DEPLOY = fileURLToPath(new URL('../../../deploy/', import.meta.url));
const found = spawnSync('promtool', ['--version']).error === undefined;
const skip = found ? false : "no promtool: apt-get install prometheus (Debian's package has it)";

interface Board {
  readonly panels: readonly { readonly title: string; readonly targets: readonly { readonly expr: string }[] }[];
}
const board = JSON.parse(readFileSync(`${DEPLOY}grafana/ponder-serve.json`, 'utf8')) as Board;
/** As Grafana fills them in. */
const queries = board.panels.flatMap(({ title, targets }) =>
  targets.map(({ expr }) => {
    return { title, query: expr.replaceAll('$instance', '.*').replaceAll('$__rate_interval', '1m') };
  }),
);

test('alert rules: valid, and each says what it should when it should', { skip }, () => {
  execFileSync('promtool', ['check', 'rules', `${DEPLOY}prometheus/alerts.yml`], { stdio: 'pipe' });
  execFileSync('promtool', ['test', 'rules', `${DEPLOY}prometheus/alerts.test.yml`], { stdio: 'pipe' });
  execFileSync('promtool', ['check', 'config', `${DEPLOY}prometheus/prometheus.yml`], { stdio: 'pipe' });
});

test('what a server tells of itself follows the conventions for names', { skip }, async (t) => {
  const server = await startServer(['--threads', '1']);
  t.after(() => server.stop());
  await work(server.url);
  const input = await (await fetch(`${server.url}/metrics`)).text();
  execFileSync('promtool', ['check', 'metrics'], { input, stdio: 'pipe' });
});

test('alert rules and board name only metrics that exist', async () => {
  const { fakeServer } = await import('../fakes.js');
  const { app, deps } = await fakeServer();
  await app.close();
  const declared = new Set(deps.metrics.registry.getMetricsAsArray().map(({ name }) => name));
  const text = readFileSync(`${DEPLOY}prometheus/alerts.yml`, 'utf8') + queries.map(({ query }) => query).join('\n');
  const named = new Set(text.match(/\bponder_[a-z_]+/g));
  assert.ok(named.size > 15);
  for (const name of named) {
    const base = name.replace(/_(bucket|sum|count)$/, '');
    assert.ok(declared.has(name) || declared.has(base), `${name} is no metric of ours`);
  }
});

test('every query of the board returns data', { skip, timeout: 120_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'prometheus-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const server = await startServer(['--threads', '1']);
  t.after(() => server.stop());
  const scrape = `{job_name: ponder-serve, scrape_interval: 500ms, static_configs: [{targets: ['${new URL(server.url).host}']}]}`;
  writeFileSync(join(folder, 'prometheus.yml'), `global: {}\nscrape_configs: [${scrape}]\n`);
  const port = await freePort();
  const prometheus = spawn(
    'prometheus',
    [
      `--config.file=${join(folder, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ],
    { stdio: 'ignore' },
  );
  t.after(async () => {
    prometheus.kill('SIGTERM');
    if (prometheus.exitCode === null) await once(prometheus, 'exit');
  });
  let empty = queries;
  // Rates need values that rise between two scrapes, so the work goes on while they are asked for.
  for (const giveUpAtMs = Date.now() + 60_000; empty.length > 0 && Date.now() < giveUpAtMs; await sleep(500)) {
    await work(server.url);
    const left: typeof queries = [];
    for (const entry of empty) if (!(await returnsData(port, entry.query))) left.push(entry);
    empty = left;
  }
  assert.deepEqual(empty, [], 'queries without data');
});

async function work(url: string): Promise<void> {
  const post = (path: string, body: object) =>
    fetch(`${url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    }).then((reply) => reply.arrayBuffer());
  await Promise.all([
    post('/v1/score', { input: 'The house is small.', quality: 'adaptive' }),
    post('/v1/translate', { input: 'The house is small.' }),
  ]);
}

async function returnsData(port: number, query: string): Promise<boolean> {
  try {
    const reply = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(query)}`);
    // It listens before its storage is open.
    if (reply.status === 503) return false;
    const { status, data, error } = (await reply.json()) as {
      status: string;
      error?: string;
      data?: { result: { value: [number, string] }[] };
    };
    assert.equal(status, 'success', `${query}: ${error}`);
    return data?.result.some(({ value }) => Number.isFinite(Number(value[1]))) ?? false;
  } catch (error) {
    // It does not listen yet.
    if (error instanceof TypeError) return false;
    throw error;
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
