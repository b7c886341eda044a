/** What an operator may change while the server runs: its API keys and its certificate, read at the start and again at SIGHUP. */
import { readFile } from 'node:fs/promises';
import type { Server as TlsServer } from 'node:tls';
import { type Config, ConfigError } from '../config.js';
import type { ApiKey } from '../http/api-keys.js';
import type { App, TlsFiles } from '../http/deps.js';
import type { KeyRing } from '../http/key-ring.js';
import { loadKeys } from '../http/key-source.js';

export interface Secrets {
  readonly keys: readonly ApiKey[];
  readonly tls: TlsFiles | null;
}

/** @throws ConfigError of one line, without a secret in it */
export async function readSecrets(config: Config, env: Readonly<Record<string, string | undefined>>): Promise<Secrets> {
  const { tlsCertFile, tlsKeyFile } = config;
  const keys = await loadKeys(config, env);
  if (tlsCertFile === '') return { keys, tls: null };
  return {
    keys,
    tls: { cert: await read(tlsCertFile, '--tls-cert-file'), key: await read(tlsKeyFile, '--tls-key-file') },
  };
}

async function read(file: string, flag: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new ConfigError(`cannot read ${file} (${(error as NodeJS.ErrnoException).code}): set ${flag}`);
  }
}

/** Takes what is there now; whatever is wrong with it leaves the old in force, and is logged. */
export async function reloadSecrets(app: App, keys: KeyRing, reread: () => Promise<Secrets>): Promise<void> {
  try {
    const secrets = await reread();
    if (secrets.tls !== null) (app.server as unknown as TlsServer).setSecureContext(secrets.tls);
    if (keys.required || secrets.keys.length > 0) keys.replace(secrets.keys);
    app.log.info({ keys: keys.names }, 'keys and certificate read again');
  } catch (error) {
    app.log.error({ reason: (error as Error).message }, 'keys and certificate are as before');
  }
}

/** Addresses that only this machine reaches. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}
