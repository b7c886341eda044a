import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { run } from '../../src/cli/inspect.js';
import { set, temporaryFolder, writePackage } from '../models/packages.js';
import { recordedIo } from './streams.js';

const NEVER = new AbortController().signal;

test('a sound package: its facts and that it is verified', async (t) => {
  const models = temporaryFolder(t);
  const folder = writePackage(models, 'tiny');
  for (const argv of [['tiny', '--models', models], [folder]]) {
    const io = recordedIo();
    assert.equal(await run(argv, io, NEVER, {}), 0);
    assert.equal(io.stderr.text, '');
    for (const line of [
      /^name +tiny$/m,
      /^parameters +1,234$/m,
      /^halting +at most 8 steps, threshold 0\.99; accumulated, freeze, remainder$/m,
      /^ {2}checkpoint\.bits_per_byte +1\.42$/m,
      /^ {2}licence +CC0$/m,
      /^ {2}weights\.bin +7 {2}ok$/m,
      /^7 files, 36 bytes: verified$/m,
    ]) {
      assert.match(io.stdout.text, line);
    }
  }
});

test('a damaged package: every damaged file, and exit code 1', async (t) => {
  const models = temporaryFolder(t);
  const folder = writePackage(models, 'tiny');
  writeFileSync(join(folder, 'weights.bin'), 'weightz');
  writeFileSync(join(folder, 'golden.json'), '[0]');
  const io = recordedIo();
  assert.equal(await run(['tiny', `--models=${models}`], io, NEVER, {}), 1);
  assert.match(io.stdout.text, /weights\.bin +7 {2}has sha256 .*\n/);
  assert.match(io.stdout.text, /: 2 damaged\n/);
  assert.match(
    io.stderr.text,
    /^ponder-serve inspect: weights\.bin has sha256 .*; golden\.json has 3 bytes .*: re-export or restore the package\n$/,
  );
});

test('--json: the manifest with the outcome', async (t) => {
  const models = temporaryFolder(t);
  writePackage(models, 'tiny');
  const io = recordedIo();
  assert.equal(await run(['tiny', '--json'], io, NEVER, { PONDER_MODELS: models }), 0);
  const facts = JSON.parse(io.stdout.text) as { verified: boolean; problems: string[]; manifest: { name: string } };
  assert.deepEqual([facts.verified, facts.problems, facts.manifest.name], [true, [], 'tiny']);
});

test('a package that cannot be read: one line, exit code 1', async (t) => {
  const models = temporaryFolder(t);
  writePackage(models, 'spoilt', (manifest) => set(manifest, 'family', 'mamba'));
  mkdirSync(join(models, 'empty'));
  for (const [model, message] of [
    [join(models, 'empty'), /: \/.*\/empty\/manifest\.json: is missing: re-export or restore it/],
    ['empty', /: \/.*\/empty\/manifest\.json: is missing/],
    ['spoilt', /unknown family "mamba"/],
    ['other', /no package "other" in .*; it has empty, spoilt/],
    ['/nowhere/tiny', /cannot read the models folder \/nowhere/],
  ] as const) {
    const io = recordedIo();
    assert.equal(await run([model, '--models', models], io, NEVER, {}), 1);
    assert.match(io.stderr.text, message);
    assert.equal(io.stdout.text, '');
  }
});

test('usage errors: exit code 2', async () => {
  for (const argv of [[], ['a', 'b'], ['a', '--verbose']]) {
    const io = recordedIo();
    assert.equal(await run(argv, io, NEVER, {}), 2);
    assert.match(io.stderr.text, /Try: ponder-serve inspect --help/);
  }
});

test('free-form facts cannot drive the terminal', async (t) => {
  const models = temporaryFolder(t);
  writePackage(models, 'tiny', (manifest) => set(manifest, 'provenance/data', 'a\x1b[2J\nb'));
  const io = recordedIo();
  assert.equal(await run(['tiny', '--models', models], io, NEVER, {}), 0);
  assert.match(io.stdout.text, /^ {2}data +a␛\[2J b$/m);
});
