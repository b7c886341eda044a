/** The Dockerfile, as far as that goes without building it. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { validate } from 'dockerfile-utils';
import { NEEDED_LIBRARIES } from '../../src/runtime/cuda-provider.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const text = readFileSync(join(ROOT, 'Dockerfile'), 'utf8');
/** Instructions, continued lines joined. */
const instructions = text
  .replaceAll(/^#.*\n/gm, '')
  .replaceAll(/\\\n/g, ' ')
  .split('\n')
  .filter(Boolean);
const stages = instructions.flatMap((line) => {
  const [, base, name = ''] = /^FROM (\S+)(?: AS (\S+))?$/.exec(line) ?? [];
  return base === undefined ? [] : [{ base, name }];
});

test('it is valid', () => {
  assert.deepEqual(
    validate(text).map(({ message, range }) => `line ${range.start.line + 1}: ${message}`),
    [],
  );
});

test("the image that is built when no target is named is the CPU's; the other target is cuda", () => {
  assert.equal(stages.at(-1)?.base, 'cpu');
  assert.equal(stages.find(({ name }) => name === 'cuda')?.base, 'cpu');
});

test('what is copied is there: of stages that come before, and of files that .dockerignore lets through', () => {
  const names: string[] = [];
  const allowed: readonly string[] = readFileSync(join(ROOT, '.dockerignore'), 'utf8').match(/^!.+$/gm) ?? [];
  for (const line of instructions) {
    const name = /^FROM \S+ AS (\S+)$/.exec(line)?.[1];
    if (name !== undefined) names.push(name);
    const [, from, operands = ''] = /^COPY (?:--from=(\S+) )?(.*)$/.exec(line) ?? [];
    if (from !== undefined) assert.ok(names.includes(from), line);
    else {
      for (const source of operands.split(/\s+/).filter(Boolean).slice(0, -1)) {
        assert.ok(existsSync(join(ROOT, source)), line);
        assert.ok(allowed.includes(`!${source.replace('./', '')}`), `${line}: not in .dockerignore`);
      }
    }
  }
});

test('the cuda image has every library that the provider needs but the driver, which the host brings', () => {
  const copied = instructions.filter((line) => line.startsWith('RUN mkdir /libraries')).join();
  for (const { file } of NEEDED_LIBRARIES) {
    const [name = '', version = ''] = file.split('.so.');
    const found = copied.includes(`/${name}.so.${version}*`) || copied.includes(`/${name}*.so.${version}*`);
    assert.equal(found, file !== 'libcuda.so.1', file);
  }
});
