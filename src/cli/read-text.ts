/** Text from a file or from standard input. */
import { createReadStream } from 'node:fs';
import { CommandError } from './command.js';

/** Larger texts are refused: they are held in memory as text, tokens and results, some thirty bytes for each of theirs. */
export const INPUT_BYTES_MAX = 64 * 1024 * 1024;

/**
 * @param file a path, or `-` for `stdin`
 * @throws CommandError when it can't be read, is too large, or is not UTF-8
 */
export async function readText(
  file: string,
  stdin: NodeJS.ReadableStream,
  bytesMax = INPUT_BYTES_MAX,
): Promise<string> {
  const shown = file === '-' ? 'standard input' : file;
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
    throw new CommandError(`cannot read ${shown} (${(error as NodeJS.ErrnoException).code}): check the path`);
  }
  try {
    // A byte order mark stays: the text is scored byte for byte.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new CommandError(`${shown} is not valid UTF-8: convert it first, for example with iconv -f latin1 -t utf8`);
  }
}
