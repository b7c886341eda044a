/** `ponder-serve gpu-install`: what the engine needs for a GPU is fetched and verified, and what the machine still lacks is told. */
import { existsSync } from 'node:fs';
import { copyFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  canLoad,
  digest,
  filesMissing,
  NEEDED_LIBRARIES,
  onnxruntimeVersion,
  PROVIDER_PACKAGE,
  type ProviderPackage,
  providerFolder,
  REMEDY_HINT,
} from '../runtime/cuda-provider.js';
import { NATIVE_OPERATORS } from '../runtime/ort-cuda.js';
import { CommandError, type CommandIo, EXIT, parseFlags, runCommand, UsageError, write } from './command.js';
import { ensureProvider } from './gpu-provider.js';

const FLAGS = { check: 'switch', from: 'value', help: 'switch' } as const;

export const USAGE = `Usage: ponder-serve gpu-install [options]

Fetches the CUDA provider of ONNX Runtime (npm package ${PROVIDER_PACKAGE.name}, 180 MB) from npm's registry,
verifies it, puts it beside ONNX Runtime's library, and tells what this machine still lacks for serve --device cuda:0.
Takes along the native operators that export/cuda/build.sh built. What is there already stays. For Linux on x64 only.

  --check      install nothing; exit code 1 when something is missing
  --from FILE  the package's tarball, for a machine without a registry
`;

/** What the command needs of the world; tests bring their own. */
export interface InstallWorld {
  readonly platform: string;
  readonly provider: ProviderPackage;
  /** Where the files go. */
  readonly folder: () => string;
  readonly onnxruntimeVersion: () => Promise<string>;
  /** What export/cuda/build.sh built. */
  readonly operators: string;
  readonly canLoad: (file: string) => boolean;
}

const WORLD: InstallWorld = {
  platform: `${process.platform} ${process.arch}`,
  provider: PROVIDER_PACKAGE,
  folder: providerFolder,
  onnxruntimeVersion,
  // Compiled, this file lies in dist/src/cli.
  operators: fileURLToPath(new URL(`../../../.gpu/lib/${NATIVE_OPERATORS}`, import.meta.url)),
  canLoad,
};

export function run(argv: string[], io: CommandIo, stop: AbortSignal, world = WORLD): Promise<number> {
  return runCommand('gpu-install', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    const stray = positionals[0] ?? serverOptions[0];
    if (stray !== undefined) throw new UsageError(`${stray} means nothing here`);
    await assertFits(world);
    const check = values.check !== undefined;
    const lines = [
      check ? await lookAtProvider(world) : await installProvider(world, values.from, stop),
      check ? await lookAtOperators(world) : await installOperators(world),
      ...NEEDED_LIBRARIES.map(({ file, what, remedy, optional = false }) => {
        const found = world.canLoad(file);
        const says = found ? 'found' : `${optional ? 'not found' : 'missing'}: ${remedy}`;
        return { what: `${what} (${file})`, missing: !found && !optional, says };
      }),
    ];
    for (const { what, says } of lines) await write(io.stdout, `${what}: ${says}\n`);
    const lacking = lines.filter(({ missing }) => missing).length;
    await write(
      io.stdout,
      lacking === 0
        ? 'Nothing is missing: ponder-serve serve --device cuda:0 tells in its log whether the GPU is used.\n'
        : `${lacking} missing: until then the CPU serves. ${REMEDY_HINT}\n`,
    );
    return check && lacking > 0 ? EXIT.failed : EXIT.ok;
  });
}

interface Line {
  readonly what: string;
  readonly says: string;
  readonly missing: boolean;
}

/** Throws CommandError where the provider can't run, or belongs to another release. */
async function assertFits({ platform, provider, onnxruntimeVersion: version }: InstallWorld): Promise<void> {
  if (platform !== 'linux x64')
    throw new CommandError(`the CUDA provider is for linux x64, and this is ${platform}: serve by the CPU`);
  const found = await version();
  if (found === provider.onnxruntime) return;
  throw new CommandError(
    `the CUDA provider is for onnxruntime-node ${provider.onnxruntime}, and ${found} is installed: run npm ci`,
  );
}

const PROVIDER = 'CUDA provider';

async function installProvider({ provider, folder }: InstallWorld, from: string | undefined, stop: AbortSignal) {
  const installed = await ensureProvider(provider, folder(), from, stop);
  return { what: PROVIDER, says: `${installed ? 'installed' : 'is there already'}: ${folder()}`, missing: false };
}

async function lookAtProvider({ provider, folder }: InstallWorld): Promise<Line> {
  const missing = await filesMissing(provider, folder());
  if (missing.length === 0) return { what: PROVIDER, says: `is there: ${folder()}`, missing: false };
  return { what: PROVIDER, says: `missing or changed: ${missing.join(', ')}; run npm run gpu:install`, missing: true };
}

const OPERATORS = 'native operators';
/** Never a failure: the graphs define every operator themselves. */
const NOT_BUILT: Line = {
  what: OPERATORS,
  says: 'not built, so that graphs run on their own functions, slower: sh export/cuda/build.sh needs nvcc of CUDA 13, then npm run gpu:install again',
  missing: false,
};

async function lookAtOperators({ folder }: InstallWorld): Promise<Line> {
  const file = join(folder(), NATIVE_OPERATORS);
  return existsSync(file) ? { what: OPERATORS, says: `are there: ${file}`, missing: false } : NOT_BUILT;
}

async function installOperators(world: InstallWorld): Promise<Line> {
  const file = join(world.folder(), NATIVE_OPERATORS);
  if (!existsSync(world.operators)) return lookAtOperators(world);
  const digests = [world.operators, file].map((one) => (existsSync(one) ? digest(one, 'sha256', 'hex') : null));
  const [built, there] = await Promise.all(digests);
  if (built === there) return { what: OPERATORS, says: `are there already: ${file}`, missing: false };
  // A server that runs keeps the file that it has open.
  await copyFile(world.operators, `${file}.new`);
  await rename(`${file}.new`, file);
  return { what: OPERATORS, says: `installed: ${file}`, missing: false };
}
