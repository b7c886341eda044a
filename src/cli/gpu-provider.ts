/** Brings the CUDA provider from npm's registry to its place: by `npm pack`, so that registry, proxy, credentials and cache are the user's own. */
import { execFile } from 'node:child_process';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { extract } from 'tar';
import { digest, filesMissing, type ProviderPackage } from '../runtime/cuda-provider.js';
import { CommandError, Stopped } from './command.js';

const FETCH_MS_MAX = 1_800_000;

/**
 * Downloads into `folder` and returns the file. Throws CommandError with npm's own words.
 * @param stop ends the download
 */
async function fetchPackage(provider: ProviderPackage, folder: string, stop: AbortSignal): Promise<string> {
  const spec = `${provider.name}@${provider.version}`;
  try {
    const args = ['pack', spec, '--json', '--ignore-scripts', '--pack-destination', folder];
    const { stdout } = await promisify(execFile)('npm', args, { cwd: folder, signal: stop, timeout: FETCH_MS_MAX });
    const [packed] = JSON.parse(stdout) as { filename: string }[];
    if (packed === undefined) throw new Error('npm pack named no file');
    return join(folder, packed.filename);
  } catch (error) {
    if (stop.aborted) throw new Stopped();
    throw new CommandError(
      `can't fetch ${spec}: ${reasonOf(error)}. Without a registry: run npm pack ${spec} where there is one, bring the file here, and give it with --from FILE`,
    );
  }
}

/** The lines that npm marks as errors say what happened, without its log and its advice. */
function reasonOf(error: unknown): string {
  const { code, stderr = '', message } = error as Error & { code?: unknown; stderr?: string };
  if (code === 'ENOENT') return 'there is no npm on the PATH';
  const lines = stderr
    .split('\n')
    .filter((line) => /^npm (ERR!|error) /.test(line))
    .map((line) => line.replace(/^npm (ERR!|error) /, '').trim());
  const told = lines.filter((line) => line !== '' && !/^(A complete log|\/|errno|code)/.test(line));
  return told.slice(0, 2).join(' ') || (message.split('\n')[0] as string);
}

/**
 * Unpacks the provider's files beside ONNX Runtime's library: whole and verified, or not at all.
 * Throws CommandError when the package or a file in it is not the one that was pinned.
 */
export async function installPackage(provider: ProviderPackage, tarball: string, folder: string): Promise<void> {
  const { integrity, files } = provider;
  const found = `sha512-${await digest(tarball, 'sha512', 'base64').catch((error: Error) => {
    throw new CommandError(`can't read ${tarball}: ${error.message}`);
  })}`;
  if (found !== integrity) {
    throw new CommandError(
      `${tarball} is not ${provider.name}@${provider.version}: its digest is ${found}, not ${integrity}. ` +
        'Nothing was installed: fetch it again, and ask who runs the registry when it stays so',
    );
  }
  // On the same file system, so that the files appear whole.
  const unpacked = await mkdtemp(join(folder, '.gpu-install-'));
  try {
    const paths = new Set(files.map(({ from, name }) => `${from}/${name}`));
    await extract({ file: tarball, cwd: unpacked, preserveOwner: false, filter: (path) => paths.has(path) });
    for (const { from, name, sha256 } of files) {
      const file = join(unpacked, from, name);
      if ((await digest(file, 'sha256', 'hex')) !== sha256)
        throw new CommandError(`${name} in ${tarball} is not the one that was pinned`);
      await rename(file, join(folder, name));
    }
  } finally {
    await rm(unpacked, { recursive: true, force: true });
  }
}

/** @returns whether something had to be installed */
export async function ensureProvider(
  provider: ProviderPackage,
  folder: string,
  from: string | undefined,
  stop: AbortSignal,
): Promise<boolean> {
  if ((await filesMissing(provider, folder)).length === 0) return false;
  if (from !== undefined) {
    await installPackage(provider, from, folder);
    return true;
  }
  const download = await mkdtemp(join(tmpdir(), 'ponder-provider-'));
  try {
    await installPackage(provider, await fetchPackage(provider, download, stop), folder);
  } finally {
    await rm(download, { recursive: true, force: true });
  }
  return true;
}
