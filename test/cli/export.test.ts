import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { run } from '../../src/cli/export.js';
import { run as runServe } from '../../src/cli/serve.js';
import type { ScoreReply } from '../../src/http/schemas.js';
import { pythonWith } from '../clients/python.js';
import { recordedIo } from './streams.js';

const NEVER = new AbortController().signal;
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

async function exporting(argv: string[], env: Record<string, string> = {}) {
  const io = recordedIo();
  const code = await run(argv, io, NEVER, env);
  return { code, stdout: io.stdout.text, stderr: io.stderr.text };
}

function scratch(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'ponder-export-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** A Python that is a shell script. */
function fakePython(folder: string, script: string): string {
  const path = join(folder, 'python');
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

test('what is missing or too much on the command line', async (t) => {
  const folder = scratch(t);
  const cases: [string[], number, RegExp][] = [
    [[], 2, /CHECKPOINT and PACKAGE are needed/],
    [['a'], 2, /CHECKPOINT and PACKAGE are needed/],
    [['a', 'b', 'c'], 2, /one checkpoint at a time, not also c/],
    [['a', 'b', '--threads', '2'], 2, /--threads is an option of serve/],
    [[join(folder, 'none'), 'b'], 1, /none does not exist: name the checkpoint's folder or file/],
  ];
  for (const [argv, code, says] of cases) {
    const outcome = await exporting(argv);
    assert.equal(outcome.code, code);
    assert.match(outcome.stderr, says);
  }
  assert.match((await exporting(['--help'])).stdout, /Usage: ponder-serve export/);
});

test('a folder that is no package is never emptied', async (t) => {
  const folder = scratch(t);
  writeFileSync(join(folder, 'thesis.txt'), 'all of it');
  const { code, stderr } = await exporting([folder, folder]);
  assert.equal(code, 1);
  assert.match(stderr, /exists and is no model package/);
  assert.ok(existsSync(join(folder, 'thesis.txt')));
  assert.match((await exporting([folder, join(folder, 'thesis.txt')])).stderr, /exists and is no model package/);
});

test('without Python, or without its packages, the line that installs them', async (t) => {
  const folder = scratch(t);
  const bare = fakePython(folder, `echo "ModuleNotFoundError: No module named 'torch'" >&2; exit 1`);
  const target = join(folder, 'package');
  const cases: [string[], Record<string, string>, RegExp][] = [
    [['--python', bare], {}, /python has no torch: python3 -m venv .*pip install -r .*export\/requirements\.txt/],
    [[], { PONDER_PYTHON: bare }, /python has no torch/],
    [['--python', join(folder, 'nothing')], {}, /there is no .*nothing: .*pip install/],
  ];
  for (const [argv, env, says] of cases) {
    const { code, stderr } = await exporting([folder, target, ...argv], env);
    assert.equal(code, 1);
    assert.match(stderr, says);
  }
});

test("the exporter's own refusal is one line", async (t) => {
  const folder = scratch(t);
  const python = fakePython(
    folder,
    `[ "$1" = -c ] && exit 0\nprintf 'Traceback (most recent call last):\\n  x\\nValueError: tiny has no tokenizer.json\\n' >&2\nexit 1`,
  );
  const { code, stderr } = await exporting([folder, join(folder, 'package'), '--python', python]);
  assert.equal(code, 1);
  assert.equal(stderr, 'ponder-serve export: tiny has no tokenizer.json\n');
});

const found = pythonWith(['torch', 'onnx', 'safetensors', 'tokenizers'], '../../export/requirements.txt');

test('the whole way of docs/your-model.md: trained, exported, served and scored, with the figures of PyTorch', {
  skip: 'missing' in found && found.missing,
  timeout: 240_000,
}, async (t) => {
  assert.ok('python' in found);
  const folder = scratch(t);
  const [checkpoint, models] = [join(folder, 'checkpoint'), join(folder, 'models')];
  const script = join(ROOT, 'export/train/tiny_universal_transformer.py');
  await promisify(execFile)(found.python, [script, checkpoint, '--steps', '30']);
  const { code, stdout, stderr } = await exporting([checkpoint, join(models, 'tiny-sums'), '--python', found.python]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /tiny-sums: universal-transformer, task score, \d+ parameters/);

  const { url, stop, ended } = await serving(['--models', models, '--precision', 'float32', '--threads', '1']);
  const golden = JSON.parse(readFileSync(join(models, 'tiny-sums/golden.json'), 'utf8')) as {
    readonly text: string;
    readonly logprobs: readonly number[];
    readonly depth: readonly number[];
  }[];
  const reply = await fetch(`${url}/v1/score`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: golden.map(({ text }) => text) }),
  });
  const { model, results } = (await reply.json()) as ScoreReply;
  stop();
  assert.equal(await ended, 0);
  assert.equal(model, 'tiny-sums');
  assert.ok(golden.length > 3);
  golden.forEach(({ text, logprobs, depth }, i) => {
    const tokens = results[i]?.tokens ?? [];
    assert.deepEqual(tokens.map(({ text }) => text).join(''), text);
    assert.deepEqual(
      tokens.map(({ depth }) => depth),
      depth,
      text,
    );
    tokens.forEach(({ logprob }, k) => {
      assert.ok(Math.abs(logprob - (logprobs[k] ?? Number.NaN)) < 2e-4, `${text}: ${logprob} for ${logprobs[k]}`);
    });
  });
});

/** The command itself on a port that was free a moment ago, once it is ready. */
async function serving(argv: string[]): Promise<{ url: string; stop: () => void; ended: Promise<number> }> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  const stop = new AbortController();
  const io = recordedIo();
  const ended = runServe(['--port', String(port), '--log-level', 'silent', ...argv], io, stop.signal);
  const url = `http://127.0.0.1:${port}`;
  let over = false;
  ended.then(() => {
    over = true;
  });
  while (!over) {
    const ready = await fetch(`${url}/health/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ready) return { url, stop: () => stop.abort(), ended };
    await new Promise(setImmediate);
  }
  throw new Error(`the server ended with ${await ended}: ${io.stderr.text}`);
}
