/** Where keys come from: a file, a variable, or both. */
import { readFile } from 'node:fs/promises';
import { type Config, ConfigError, KEYS_VARIABLE } from '../config.js';
import { type ApiKey, parseKeys } from './api-keys.js';

/**
 * @returns none when neither is set
 * @throws ConfigError of one line
 */
export async function loadKeys(
  { apiKeysFile }: Pick<Config, 'apiKeysFile'>,
  env: Readonly<Record<string, string | undefined>>,
): Promise<ApiKey[]> {
  const inVariable = env[KEYS_VARIABLE];
  try {
    const keys = [
      ...(apiKeysFile === '' ? [] : parseKeys(await read(apiKeysFile), apiKeysFile)),
      ...(inVariable ? parseKeys(inVariable, KEYS_VARIABLE) : []),
    ];
    const twice = keys.find(({ name }, i) => keys.findIndex((other) => other.name === name) < i);
    if (twice === undefined) return keys;
    throw new Error(`the key ${twice.name} is in ${apiKeysFile} and in ${KEYS_VARIABLE}: remove one`);
  } catch (error) {
    throw new ConfigError((error as Error).message);
  }
}

async function read(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new Error(`cannot read ${file} (${(error as NodeJS.ErrnoException).code}): set --api-keys-file`);
  }
}
