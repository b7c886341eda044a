/** Where results are kept: `loadtest/results/NAME-TIME.EXTENSION`. */
import { mkdir, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('../../loadtest/results/', import.meta.url));

/** @param contents by extension. @returns the files written */
export async function saveResult(
  name: string,
  measuredAt: string,
  contents: Readonly<Record<string, string>>,
): Promise<string[]> {
  await mkdir(FOLDER, { recursive: true });
  const stem = `${FOLDER}${name}-${measuredAt.replace(/[:.]/g, '-')}`;
  return Promise.all(
    Object.entries(contents).map(async ([extension, content]) => {
      await writeFile(`${stem}.${extension}`, content);
      return `${stem}.${extension}`;
    }),
  );
}
