/** `gpu:bench` as far as it goes without a GPU: what it would start is there, and without a GPU it says so. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { PARTS, TEXTS_SEED } from '../../loadtest/gpu/bench-parts.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const BENCH = join(ROOT, 'dist/loadtest/gpu/bench.js');
const paths = {
  root: ROOT,
  inputs: '/inputs',
  models: join(ROOT, 'models'),
  out: '/out',
  device: 'cuda:1',
  python: 'python3',
  brief: false,
};

test('each part starts a program that is there, reads what is made before it, and writes where its results are looked for', () => {
  const written = new Set<string>();
  for (const [name, { command, results }] of Object.entries(PARTS)) {
    const [program, file = '', ...args] = command(paths);
    // Built where nvcc is.
    if (program === join(ROOT, '.gpu/lib/kernel-test')) continue;
    assert.ok(program === process.execPath || program === 'python3', name);
    assert.ok(existsSync(file), `${name}: ${file}`);
    for (const result of results) {
      const path = join('/out', result);
      assert.ok(
        args.some((arg) => path === arg || path.startsWith(`${arg}/`)),
        `${name}: ${result}`,
      );
    }
    // Folders of earlier parts that this one compares.
    const read = args.filter((arg) => /^\/out\/.*\//.test(arg)).map((arg) => arg.split('/')[2] as string);
    for (const folder of read) assert.ok(written.has(folder), `${name} reads ${folder}`);
    for (const result of results) written.add(result.split('/')[0] as string);
  }
});

test('--brief leaves nothing out but settings of what is compared with', () => {
  for (const [name, { command }] of Object.entries(PARTS)) {
    const full = command(paths);
    const brief = command({ ...paths, brief: true });
    assert.deepEqual(brief.slice(0, 3), full.slice(0, 3), name);
    if (name.startsWith('node-loop')) assert.match(brief.join(' '), /--batch \d+ --seconds-max \d+/);
    else if (name === 'pytorch') assert.match(brief.join(' '), /--variants compiled/);
    else assert.deepEqual(brief, full, name);
  }
});

test('the seed that results carry is the one of the texts', () => {
  const source = readFileSync(join(ROOT, 'export/gpu_inputs.py'), 'utf8');
  assert.equal(Number(/^SEED = (\d+)$/m.exec(source)?.[1]), TEXTS_SEED);
});

test('no GPU, no such part: a line that says so', () => {
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, [BENCH, ...args], { encoding: 'utf8', env: { PATH: '/nonexistent' } });
  const none = bench();
  assert.equal(none.status, 1);
  assert.match(none.stderr, /^gpu:bench: there is no GPU to measure on \(nvidia-smi: .*npm run gpu:bench -- pack\n$/);
  const unknown = bench('scoer');
  assert.equal(unknown.status, 2);
  assert.match(unknown.stderr, /there is no part scoer: choose of kernels, score, translate/);
});
