/** lm-evaluation-harness from PyPI, unchanged, over the shipped model: what it sums up is what the model says. Skipped where it isn't installed. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { goldenTexts, SHIPPED } from '../shipped-package.js';
import { pythonWith } from './python.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const found = pythonWith(['lm_eval', 'datasets', 'aiohttp', 'tenacity'], 'requirements-lm-eval.txt');

/** Beginnings of texts and the word that follows. */
const PASSAGES = goldenTexts()
  .flatMap(({ text }) => {
    const words = text.split(' ');
    return [6, 12, 20].map((at) => ({ context: words.slice(0, at).join(' '), continuation: words[at] ?? '' }));
  })
  .filter(({ continuation, context }) => /^[A-Za-z]+$/.test(continuation) && context.length < 300)
  .slice(0, 8);

async function startServer(t: TestContext): Promise<string> {
  const args = ['dist/src/main.js', 'serve', '--port', '0', '--precision', 'float32', '--model-list', SHIPPED];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PONDER_')));
  const child: ChildProcess = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
    const url = /ready at (http:\/\/[^\s,]+)/.exec(line)?.[1];
    if (url !== undefined) return url;
  }
  throw new Error('the server did not start');
}

interface Token {
  readonly id: number;
  readonly logprob: number;
  readonly top_logprobs: readonly { readonly id: number }[];
}

/** Sum of the last word's log-probabilities, and whether each of its tokens is the best. */
async function lastWord(url: string, { context, continuation }: (typeof PASSAGES)[number]) {
  const post = async (input: string) => {
    const body = JSON.stringify({ input, top_logprobs: 1 });
    const reply = await fetch(`${url}/v1/score`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    const { results } = (await reply.json()) as { results: readonly { readonly tokens: readonly Token[] }[] };
    return results[0]?.tokens ?? [];
  };
  const [whole, before] = [await post(`${context} ${continuation}`), await post(context)];
  const word = whole.slice(before.length);
  return {
    logprob: word.reduce((sum, { logprob }) => sum + logprob, 0),
    greedy: word.every(({ id, top_logprobs }) => top_logprobs[0]?.id === id),
  };
}

test('PyPI lm_eval: perplexity and accuracy of a local task', {
  skip: 'missing' in found && found.missing,
  timeout: 300_000,
}, async (t) => {
  assert.ok('python' in found);
  assert.ok(PASSAGES.length >= 5, `${PASSAGES.length} passages`);
  const url = await startServer(t);
  const folder = mkdtempSync(join(tmpdir(), 'ponder-lm-eval-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(join(folder, 'lambada.jsonl'), PASSAGES.map((passage) => `${JSON.stringify(passage)}\n`).join(''));
  const model = `model=${SHIPPED},base_url=${url}/v1/completions,max_length=512`;
  const task = ['--tasks', 'ponder_lambada', '--include_path', `${ROOT}/test/clients/lm-eval`, '--output_path', 'out'];
  await promisify(execFile)(
    found.python,
    ['-m', 'lm_eval', 'run', '--model', 'local-completions', '--model_args', model, '--batch_size', '4', ...task],
    {
      cwd: folder,
      env: { ...process.env, HF_HUB_OFFLINE: '1', HF_DATASETS_OFFLINE: '1', HF_HOME: join(folder, 'cache') },
      maxBuffer: 64 * 1024 * 1024,
    },
  );
  const out = join(folder, 'out', SHIPPED);
  const file = readdirSync(out).find((name) => name.startsWith('results_'));
  const results = JSON.parse(readFileSync(join(out, file as string), 'utf8')).results.ponder_lambada;

  const words = [];
  for (const passage of PASSAGES) words.push(await lastWord(url, passage));
  const mean = words.reduce((sum, { logprob }) => sum + logprob, 0) / words.length;
  assert.ok(
    Math.abs(Math.log(results['perplexity,none']) + mean) < 1e-6,
    `${results['perplexity,none']}, mean ${mean}`,
  );
  assert.equal(results['acc,none'], words.filter(({ greedy }) => greedy).length / words.length);
});
