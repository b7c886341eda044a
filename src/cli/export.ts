/** `ponder-serve export CHECKPOINT PACKAGE`: runs the Python exporter, and says what it needs where it can't run. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { packageFacts } from '../models/registry.js';
import { CommandError, type CommandIo, EXIT, parseFlags, runCommand, Stopped, UsageError, write } from './command.js';

const FLAGS = { python: 'value', vocabulary: 'value', help: 'switch' } as const;

/** Compiled, this file lies in dist/src/cli. */
const FOLDER = fileURLToPath(new URL('../../../export/', import.meta.url));

/** What export.py imports, of the packages that export/requirements.txt pins. */
const NEEDED = 'import torch, onnx, safetensors, numpy';

export const USAGE = `Usage: ponder-serve export CHECKPOINT PACKAGE [options]

Makes a model package of a PyTorch checkpoint: a folder with config.json, model.safetensors, tokenizer.json and golden.json
(Universal Transformer), or a .pt or .safetensors file of an adaptive-span model. docs/your-model.md tells what they hold.
PACKAGE is the folder to write; its last part is the model's name. It is replaced when it is a package already.

  --vocabulary FILE  adaptive span: the bytes that the ids stand for, a number a line; default: all 256, in order
  --python PYTHON    interpreter with the packages of export/requirements.txt; default: the variable PONDER_PYTHON, .venv of
                     this checkout, or python3
`;

export function run(
  argv: string[],
  io: CommandIo,
  stop: AbortSignal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  return runCommand('export', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const [checkpoint, target, ...more] = positionals;
    if (checkpoint === undefined || target === undefined) {
      throw new UsageError('CHECKPOINT and PACKAGE are needed: what to export, and the folder to write');
    }
    if (more.length > 0) throw new UsageError(`one checkpoint at a time, not also ${more.join(' ')}`);
    const [option] = serverOptions;
    if (option !== undefined) throw new UsageError(`${option.split('=')[0]} is an option of serve`);
    if (!existsSync(checkpoint))
      throw new CommandError(`${checkpoint} does not exist: name the checkpoint's folder or file`);
    assertReplaceable(target);

    const python = await findPython(values.python, env);
    const vocabulary = values.vocabulary === undefined ? [] : ['--vocabulary', resolve(values.vocabulary)];
    await runExporter(python, [resolve(checkpoint), resolve(target), ...vocabulary], io, stop);
    const { manifest, files } = await packageFacts(resolve(target, '..'), basename(resolve(target)));
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    await write(
      io.stdout,
      `${target}: ${manifest.family}, task ${manifest.task}, ${manifest.parameters} parameters, ${bytes} bytes\n` +
        `Serve it: ponder-serve serve --models ${resolve(target, '..')}\n`,
    );
    return EXIT.ok;
  });
}

/** The exporter empties the folder first: it must be a package, or nothing. */
function assertReplaceable(target: string): void {
  if (!existsSync(target) || existsSync(join(target, 'manifest.json'))) return;
  let empty = false;
  try {
    empty = readdirSync(target).length === 0;
  } catch {
    // A file.
  }
  if (!empty) throw new CommandError(`${target} exists and is no model package: name a folder that may be written`);
}

/**
 * The first of the candidates that has what the exporter imports.
 * @throws CommandError with the line that installs it
 */
async function findPython(
  named: string | undefined,
  { PONDER_PYTHON }: Readonly<Record<string, string | undefined>>,
): Promise<string> {
  if (!existsSync(join(FOLDER, 'export.py'))) {
    throw new CommandError(
      `the exporter is not installed (no ${FOLDER}export.py): run this command in a checkout of ponder-serve`,
    );
  }
  const given = named ?? (PONDER_PYTHON || undefined);
  const candidates = given === undefined ? [join(FOLDER, '../.venv/bin/python'), 'python3'] : [given];
  let reason = '';
  for (const python of candidates) {
    try {
      await promisify(execFile)(python, ['-c', NEEDED]);
      return python;
    } catch (error) {
      reason = whyNot(python, error as NodeJS.ErrnoException & { stderr?: string });
    }
  }
  const folder = resolve(FOLDER, '..');
  throw new CommandError(
    `${reason}: python3 -m venv ${folder}/.venv && ${folder}/.venv/bin/pip install -r ${folder}/export/requirements.txt, ` +
      'or name a Python that has them with --python',
  );
}

function whyNot(python: string, error: NodeJS.ErrnoException & { stderr?: string }): string {
  if (error.code === 'ENOENT') return `there is no ${python}`;
  const [, missing] = /No module named '([^']+)'/.exec(error.stderr ?? '') ?? [];
  return missing === undefined ? `${python} does not run` : `${python} has no ${missing}`;
}

/** @throws CommandError with the exporter's last line, which names what is wrong with the checkpoint */
async function runExporter(python: string, args: readonly string[], io: CommandIo, stop: AbortSignal): Promise<void> {
  const child = spawn(python, [join(FOLDER, 'export.py'), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    signal: stop,
  });
  let said = '';
  child.stdout.on('data', (text: Buffer) => io.stderr.write(text));
  child.stderr.on('data', (text: Buffer) => {
    said = (said + text.toString()).slice(-8192);
  });
  const code = await new Promise<number | null>((done, fail) => {
    child.once('close', done);
    child.once('error', (error) => (stop.aborted ? fail(new Stopped()) : fail(error)));
  });
  if (code === 0) return;
  const last = said.trimEnd().split('\n').at(-1) ?? '';
  throw new CommandError(last === '' ? `the exporter ended with ${code}` : last.replace(/^\w*(Error|Exception): /, ''));
}
