import assert from 'node:assert/strict';
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { loadModels, packageFacts } from '../../src/models/registry.js';
import { set, temporaryFolder, writePackage } from './packages.js';

const ALL = { only: null, precision: 'int8' } as const;

/** The reason for which the package is refused after `spoil`, while a sound one beside it is served. */
async function refusal(t: TestContext, spoil: (folder: string) => void): Promise<string> {
  const folder = temporaryFolder(t);
  writePackage(folder, 'sound');
  spoil(folder);
  const { models, refused } = await loadModels({ folder, ...ALL });
  assert.deepEqual(
    models.map((model) => model.id),
    ['sound'],
  );
  assert.deepEqual(
    refused.map((model) => model.id),
    ['spoilt'],
  );
  return refused[0]?.reason ?? '';
}

test('a sound package is described from its manifest', async (t) => {
  const folder = temporaryFolder(t);
  writePackage(folder, 'tiny');
  writeFileSync(join(folder, 'README.md'), 'not a package');
  mkdirSync(join(folder, '.hidden'));
  const { models, refused } = await loadModels({ folder, ...ALL });
  assert.deepEqual(refused, []);
  const [{ graphs, createdAtUnix, ...rest } = assert.fail('no model')] = models;
  assert.deepEqual(rest, {
    id: 'tiny',
    family: 'universal-transformer',
    task: 'score',
    language: 'en',
    precision: 'int8',
    vocabularySize: 512,
    contextTokens: 32,
    maxSteps: 8,
    threshold: 0.99,
    bosId: 1,
    eosId: 2,
    targetLanguage: null,
    parameters: 1234,
    folder: join(folder, 'tiny'),
    provenance: { data: 'made up', licence: 'CC0' },
    quality: { checkpoint: { bits_per_byte: 1.42 } },
  });
  assert.deepEqual(Object.keys(graphs), ['begin', 'step', 'finish', 'finish_top']);
  assert.equal(graphs.begin?.file, 'begin.onnx');
  assert.ok(Math.abs(createdAtUnix - Date.now() / 1000) < 60);
});

for (const [what, path, value, reason] of [
  [
    'an unknown format',
    'format',
    'ponder-serve/9',
    /unknown format "ponder-serve\/9", this version serves ponder-serve\/1: upgrade/,
  ],
  ['an unknown family', 'family', 'mamba', /unknown family "mamba", this version serves universal-transformer/],
  ['an unknown task', 'task', 'summarize', /unknown task "summarize", this version serves score, translate/],
  ['an unknown key', 'speed', 1, /unknown key speed in \/: re-export or restore it/],
  ['an unknown key within', 'halting/epsilon', 1, /unknown key epsilon in \/halting/],
  ['no name', 'name', undefined, /required properties name/],
  ['another name', 'name', 'other', /name is other but the folder is spoilt/],
  ['another halting rule', 'halting/halted_state', 'copy', /\/halting\/halted_state must be "freeze"/],
  ['no steps', 'halting/max_steps', 0, /\/halting\/max_steps must be >= 1/],
  ['more steps than a byte counts', 'halting/max_steps', 256, /\/halting\/max_steps must be <= 255/],
  ['a threshold of 0', 'halting/threshold', 0, /\/halting\/threshold must be > 0/],
  ['a threshold above 1', 'halting/threshold', 1.01, /\/halting\/threshold must be <= 1/],
  ['a threshold in words', 'halting/threshold', '0.99', /\/halting\/threshold must be number/],
  ['heads that do not divide the width', 'dimensions/heads', 3, /d_model \(8\) is no multiple of heads \(3\)/],
  ['a fractional dimension', 'dimensions/context', 31.5, /\/dimensions\/context must be integer/],
  ['a token outside the vocabulary', 'tokens/bos', 512, /token bos \(512\) is outside the vocabulary \(512\)/],
  ['no precision', 'precisions', {}, /precisions is empty/],
  ['an unknown precision', 'precisions/int4', {}, /unknown key int4 in \/precisions/],
  ['no step graph', 'precisions/int8/step', undefined, /precisions\/int8 has no graph step/],
  ['a graph that is not listed', 'precisions/int8/step/file', 'other.onnx', /files does not list other\.onnx/],
  ['a graph of an inherited name', 'precisions/int8/step/file', 'constructor', /files does not list constructor/],
  [
    'a graph outside the package',
    'precisions/int8/step/file',
    '../sound/begin.onnx',
    /\/precisions\/int8\/step\/file must match/,
  ],
  [
    'a graph with an unknown type',
    'precisions/int8/step/inputs/ids/type',
    'bfloat16',
    /must be one of float32, float16, int32/,
  ],
  ['a negative dimension', 'precisions/int8/step/inputs/ids/dims', [-1], /\/precisions\/int8\/step\/inputs\/ids\/dims/],
  [
    'a file outside the package',
    'files/../sound/begin.onnx',
    { bytes: 5, sha256: 'a'.repeat(64) },
    /unknown key .* in \/files/,
  ],
  ['provenance nested without end', 'provenance/a', nested(1000), /provenance nests deeper than 16 levels/],
  ['no tokenizer', 'files/tokenizer.json', undefined, /files does not list tokenizer\.json/],
  ['a hash that is none', 'files/weights.bin/sha256', 'abc', /\/files\/weights\.bin\/sha256 must match/],
  [
    'the wrong hash',
    'files/weights.bin/sha256',
    'a'.repeat(64),
    /^weights\.bin: has sha256 .* where the manifest says a+…: re-export or restore it$/,
  ],
  [
    'the wrong size',
    'files/weights.bin/bytes',
    8,
    /^weights\.bin: has 7 bytes where the manifest says 8: re-export or restore it$/,
  ],
  [
    'a file that is not there',
    'files/extra.bin',
    { bytes: 5, sha256: 'a'.repeat(64) },
    /^extra\.bin: is missing: re-export or restore it$/,
  ],
] as const) {
  test(`a package with ${what} is refused, the others are served`, async (t) => {
    const change = (manifest: Record<string, unknown>): void => {
      // The one path whose last key holds separators.
      if (path.startsWith('files/..')) (manifest.files as Record<string, unknown>)[path.slice('files/'.length)] = value;
      else set(manifest, path, value);
    };
    assert.match(await refusal(t, (folder) => writePackage(folder, 'spoilt', change)), reason);
  });
}

for (const [what, spoil, reason] of [
  [
    'no manifest',
    (folder) => rmSync(join(folder, 'manifest.json')),
    /^manifest\.json: is missing: re-export or restore it$/,
  ],
  [
    'a manifest that is no JSON',
    (folder) => truncateSync(join(folder, 'manifest.json'), 100),
    /^manifest\.json: not JSON/,
  ],
  [
    'a manifest that is null',
    (folder) => writeFileSync(join(folder, 'manifest.json'), 'null'),
    /^manifest\.json: \/ must be object/,
  ],
  [
    'a huge manifest',
    (folder) => truncateSync(join(folder, 'manifest.json'), 2 ** 21),
    /^manifest\.json: has 2097152 bytes, more than 1048576/,
  ],
  [
    'a folder as a manifest',
    (folder) => spoilWithFolder(join(folder, 'manifest.json')),
    /^manifest\.json: is not a file/,
  ],
  ['a folder as a file', (folder) => spoilWithFolder(join(folder, 'weights.bin')), /^weights\.bin: is not a file/],
  ['a flipped byte', (folder) => writeFileSync(join(folder, 'weights.bin'), 'weightz'), /^weights\.bin: has sha256/],
  ['a dangling link', (folder) => spoilWithLink(join(folder, 'weights.bin')), /^weights\.bin: is missing/],
] as const satisfies [string, (folder: string) => void, RegExp][]) {
  test(`a package with ${what} is refused, the others are served`, async (t) => {
    assert.match(await refusal(t, (folder) => spoil(writePackage(folder, 'spoilt'))), reason);
  });
}

function nested(levels: number): Record<string, unknown> {
  let value = {};
  for (let i = 0; i < levels; i++) value = { a: value };
  return value;
}

function spoilWithFolder(path: string): void {
  rmSync(path);
  mkdirSync(path);
}

function spoilWithLink(path: string): void {
  rmSync(path);
  symlinkSync('/nowhere', path);
}

test('`only` chooses packages; a name that is not there is refused with those that are', async (t) => {
  const folder = temporaryFolder(t);
  for (const name of ['a', 'b', 'c']) writePackage(folder, name);
  const { models, refused } = await loadModels({ folder, only: ['c', 'a', 'c', '../a'], precision: 'int8' });
  assert.deepEqual(
    models.map((model) => model.id),
    ['c', 'a'],
  );
  assert.equal(refused.length, 1);
  assert.match(
    refused[0]?.reason ?? '',
    /no package "\.\.\/a" in .*; it has a, b, c: correct the name or set --models/,
  );
});

test('a package without the chosen precision says which one it has', async (t) => {
  const folder = temporaryFolder(t);
  writePackage(folder, 'tiny');
  const { models, refused } = await loadModels({ folder, only: null, precision: 'float32' });
  assert.deepEqual(models, []);
  assert.match(refused[0]?.reason ?? '', /no float32 graphs: start with --precision int8/);
});

test('a models folder that is not there is the one thing that throws, with the remedy', async () => {
  await assert.rejects(
    loadModels({ folder: '/nowhere', ...ALL }),
    /cannot read the models folder \/nowhere \(ENOENT\): set --models/,
  );
});

test('packageFacts tells every damaged file', async (t) => {
  const models = temporaryFolder(t);
  const folder = writePackage(models, 'tiny');
  rmSync(join(folder, 'golden.json'));
  writeFileSync(join(folder, 'weights.bin'), 'w');
  const { files } = await packageFacts(models, 'tiny');
  const problems = files.filter((check) => check.problem !== null).map((check) => [check.file, check.problem]);
  assert.deepEqual(problems, [
    ['weights.bin', 'has 1 bytes where the manifest says 7'],
    ['golden.json', 'is missing'],
  ]);
  await assert.rejects(packageFacts(models, 'other'), /no package "other"/);
});
