/** Imports follow the request, never back (rule 1 of the house style). */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, normalize } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const SRC = fileURLToPath(new URL('../../../src', import.meta.url));

/** What everyone may use: they import nothing but each other. */
const LEAVES = ['errors', 'config', 'nearest', 'version', 'models', 'engine/protocol'];

/** What each folder may import beside itself; the clock is listed, because the scheduler and the families must not have one. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  main: ['cli'],
  cli: ['http', 'metrics', 'translate', 'engine', 'tokenize', 'runtime', 'clock'],
  http: ['translate', 'engine', 'metrics', 'tokenize', 'clock'],
  translate: ['engine', 'tokenize', 'clock'],
  metrics: [],
  engine: ['scheduler', 'families', 'runtime', 'tokenize', 'clock'],
  families: ['scheduler', 'runtime'],
  scheduler: [],
  runtime: [],
  tokenize: ['clock'],
  models: [],
  page: [],
};

/** Packages that only one folder may know. */
const SEAMS: Readonly<Record<string, string>> = {
  koffi: 'runtime',
  'onnxruntime-node': 'runtime',
  'prom-client': 'metrics',
  '@opentelemetry/api': 'metrics',
  '@opentelemetry/sdk-trace-base': 'metrics',
  fastify: 'http',
  'eld/extrasmall': 'http',
  htmlparser2: 'translate',
};

/** The loop that the bench compares the engine with: what one writes over the runtime without us, so it knows the runtime. */
const BASELINE = 'cli/bench-node-loop.ts';

interface Import {
  readonly file: string;
  readonly target: string;
}

function importsOf(file: string): Import[] {
  const source = readFileSync(`${SRC}/${file}`, 'utf8');
  const targets = [...source.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, target = '']) => target);
  return targets.map((target) => ({
    file,
    target: target.startsWith('.') ? normalize(`${dirname(file)}/${target}`).replace(/\.js$/, '') : target,
  }));
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
const imports = files.filter((file) => file !== BASELINE).flatMap((file) => importsOf(file));
const folderOf = (path: string): string => path.split('/')[0]?.replace(/\.ts$/, '') ?? '';

test('each folder imports only what lies further along the way of a request', () => {
  for (const { file, target } of imports) {
    const from = folderOf(file);
    if (!files.includes(`${target}.ts`) || folderOf(target) === from) continue;
    if (LEAVES.some((leaf) => target === leaf || target.startsWith(`${leaf}/`))) continue;
    assert.ok(ALLOWED[from]?.includes(folderOf(target)), `${file} must not import ${target}`);
  }
});

test('a package at a seam is known to one folder', () => {
  for (const { file, target } of imports) {
    const folder = SEAMS[target];
    if (folder !== undefined) assert.equal(folderOf(file), folder, `${file} imports ${target}`);
  }
});
