/**
 * `npm run gpu:bench`: everything that is measured on a GPU, one part after another, and one result file with commit, machine, device, options and
 * the texts' seed. A part that fails is told and kept as such; the others go on, and the exit code is 1. Texts lie in .gpu/inputs, made once by
 * export/gpu_inputs.py; what a part writes stays in .gpu/bench.
 */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { describeMachine } from '../../src/cli/bench-machine.js';
import { saveResult } from '../results.js';
import { type BenchPaths, PARTS, type Part, TEXTS_SEED } from './bench-parts.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const USAGE = `Usage: npm run gpu:bench -- [PART ...] [--device cuda:N] [--models FOLDER] [--python PYTHON] [--provider-unverified] [--brief]
       npm run gpu:bench -- pack

Measures on this machine's GPU and writes loadtest/results/gpu-TIME.json. Parts, all of them unless some are named:

${Object.entries(PARTS)
  .map(([name, { help }]) => `  ${name.padEnd(17)}${help}`)
  .join('\n')}

--brief has what is compared with run at its best known settings alone. --provider-unverified takes the CUDA provider that is there, such as one that was pruned to travel.
pack makes .gpu/parts for a bare machine instead: loadtest/gpu/unpack.sh puts them together there.
`;

async function main(argv: readonly string[]): Promise<number> {
  if (argv[0] === 'pack') return call('bash', [join(ROOT, 'loadtest/gpu/pack.sh')]);
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      device: { type: 'string', default: 'cuda:0' },
      models: { type: 'string', default: join(ROOT, 'models') },
      python: { type: 'string', default: process.env.PONDER_PYTHON ?? 'python3' },
      'provider-unverified': { type: 'boolean', default: false },
      brief: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const names = positionals.length > 0 ? positionals : Object.keys(PARTS);
  const unknown = names.find((name) => !Object.hasOwn(PARTS, name));
  const refused =
    unknown === undefined
      ? await refusal(values.python, values['provider-unverified'])
      : `there is no part ${unknown}: choose of ${Object.keys(PARTS).join(', ')}`;
  if (refused !== null) {
    process.stderr.write(`gpu:bench: ${refused}\n`);
    return unknown === undefined ? 1 : 2;
  }
  const out = join(ROOT, '.gpu/bench');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const { device, models, python, brief } = values;
  const paths: BenchPaths = { root: ROOT, inputs: join(ROOT, '.gpu/inputs'), models, out, device, python, brief };
  const measuredAt = new Date().toISOString();
  const parts: Record<string, unknown> = {};
  for (const name of names) {
    process.stdout.write(`\n== ${name}\n`);
    parts[name] = await measure(PARTS[name] as Part, paths);
  }
  const machine = { ...(await describeMachine()), ...packed() };
  const facts = { measuredAt, machine, gpus: await gpus(), device, seed: TEXTS_SEED };
  const written = await saveResult('gpu', measuredAt, { json: `${JSON.stringify({ ...facts, parts }, null, 1)}\n` });
  process.stdout.write(`\n${written.join('\n')}\n`);
  return Object.values(parts).some((part) => Object.hasOwn(part as object, 'error')) ? 1 : 0;
}

/** Why nothing can be measured here, with what to do; null: it can. */
async function refusal(python: string, unverified: boolean): Promise<string | null> {
  const found = await gpus();
  if (typeof found === 'string')
    return `there is no GPU to measure on (nvidia-smi: ${found}); for another machine: npm run gpu:bench -- pack`;
  const check = [join(ROOT, 'dist/src/main.js'), 'gpu-install', '--check'];
  if (!unverified && (await call(process.execPath, check)) !== 0)
    return 'the above is missing: run npm run gpu:install, and what it tells';
  if (existsSync(join(ROOT, '.gpu/inputs/references.json'))) return null;
  if ((await call(python, [join(ROOT, 'export/gpu_inputs.py'), join(ROOT, '.gpu/inputs')])) === 0) return null;
  return `the texts could not be made: ${python} needs export/requirements.txt, and ../shared beside the checkout; or bring .gpu/inputs from a machine that has them`;
}

/** The commit that was packed for a machine without the repository. */
function packed(): { readonly commit: string; readonly dirty: boolean } | null {
  const file = join(ROOT, 'COMMIT');
  return existsSync(file) ? { commit: readFileSync(file, 'utf8').trim(), dirty: false } : null;
}

/** Names, memory and driver of the GPUs, or the reason why there are none. */
async function gpus(): Promise<readonly string[] | string> {
  try {
    const args = ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader'];
    return (await promisify(execFile)('nvidia-smi', args)).stdout.trim().split('\n');
  } catch (error) {
    return (error as Error).message.split('\n')[0] as string;
  }
}

async function measure({ command, results }: Part, paths: BenchPaths): Promise<unknown> {
  const [program, ...args] = command(paths);
  const code = await call(program, args);
  const read = (file: string): unknown => JSON.parse(readFileSync(join(paths.out, file), 'utf8'));
  const found = results.filter((file) => existsSync(join(paths.out, file))).map((file) => [file, read(file)] as const);
  const failed = code !== 0 || found.length < results.length;
  const error = { error: `exit code ${code}; ${found.length} of ${results.length} result files` };
  return { command: [program, ...args].join(' '), ...(failed ? error : {}), ...Object.fromEntries(found) };
}

/** With our own streams. Resolves with the exit code. */
function call(program: string, args: readonly string[]): Promise<number> {
  // Where CUDA's own installer puts its libraries, which is not where the loader looks.
  const libraries = ['/usr/local/cuda/lib64', process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const child = spawn(program, args, {
    stdio: 'inherit',
    cwd: ROOT,
    env: { ...process.env, LD_LIBRARY_PATH: libraries },
  });
  return new Promise((resolve) => {
    child.on('error', (error) => {
      process.stderr.write(`${program}: ${error.message}\n`);
      resolve(127);
    });
    child.on('exit', (code, signal) => resolve(signal === null ? (code ?? 1) : 128));
  });
}

process.exitCode = await main(process.argv.slice(2)).catch((error: Error) => {
  process.stderr.write(`gpu:bench: ${error.message}\n`);
  return 1;
});
