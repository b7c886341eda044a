/** Text from a file or from standard input. */
import { constants, createReadStream } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { CommandError } from './command.js';

/** Larger texts are refused: they are held in memory as text, tokens and results, some thirty bytes for each of theirs. */
export const INPUT_BYTES_MAX = 64 * 1024 * 1024;

/** How messages call the file. */
export function shownName(file: string): string {
  return file === '-' ? 'standard input' : file;
}

/**
 * Whether the file could be read, before a model is chosen and opened for it. Nothing is opened: that would take from a pipe.
 * @throws CommandError
 */
export async function assertReadable(file: string): Promise<void> {
  if (file === '-') return;
  let isFolder: boolean;
  try {
    await access(file, constants.R_OK);
    isFolder = (await stat(file)).isDirectory();
  } catch (error) {
    throw cannotRead(file, (error as NodeJS.ErrnoException).code);
  }
  if (isFolder) throw cannotRead(file, 'EISDIR');
}

export function cannotRead(file: string, code: string | undefined): CommandError {
  return new CommandError(`cannot read ${shownName(file)} (${code}): check the path`);
}

/**
 * @param file a path, or `-` for `stdin`
 * @throws CommandError when it can't be read, is too large, or is not UTF-8
 */
export async function readText(
  file: string,
  stdin: NodeJS.ReadableStream,
  bytesMax = INPUT_BYTES_MAX,
): Promise<string> {
  const shown = shownName(file);
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of file === '-' ? stdin : createReadStream(file)) {
      const buffer = Buffer.from(chunk);
      bytes += buffer.length;
      if (bytes > bytesMax) {
        throw new CommandError(`${shown} has more than ${bytesMax / 1024 ** 2} MiB: split it and score the parts`);
      }
      chunks.push(buffer);
    }
  } catch (error) {
    if (error instanceof CommandError) throw error;
    throw cannotRead(file, (error as NodeJS.ErrnoException).code);
  }
  try {
    // A byte order mark stays: the text is scored byte for byte.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new CommandError(`${shown} is not valid UTF-8: convert it first, for example with iconv -f latin1 -t utf8`);
  }
}
