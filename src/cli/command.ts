/** What the commands of the CLI share: their streams, their flags, and how an error becomes one line and an exit code. */
import { once } from 'node:events';
import { ConfigError, flagOf, optionNames } from '../config.js';
import { ServerError } from '../errors.js';
import { PackageError } from '../models/manifest.js';
import { didYouMean } from '../nearest.js';

export interface OutputStream extends NodeJS.WritableStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface CommandIo {
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly stdin: NodeJS.ReadableStream;
}

/** `stopped` is what shells report of a command that SIGINT ended. */
export const EXIT = { ok: 0, failed: 1, usage: 2, stopped: 130 } as const;

/** The command line is wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The command can't do what was asked; the message is one line that says what to do. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
}

/** The user asked the command to stop before it was done. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
}

/** The reader of our output is gone (`| head`): there is nobody left to tell. */
class OutputClosed extends Error {}

/** Runs a command's body; errors of operation and usage become a line on stderr, errors of the program are thrown on. */
export async function runCommand(name: string, io: CommandIo, body: () => Promise<number>): Promise<number> {
  // Without a listener a broken pipe would end the process with a stack trace; `write` sees it through `writable`.
  const ignore = (): void => {};
  io.stdout.on('error', ignore);
  try {
    return await body();
  } catch (error) {
    if (error instanceof OutputClosed) return EXIT.ok;
    if (error instanceof Stopped) {
      io.stderr.write(`ponder-serve ${name}: stopped\n`);
      return EXIT.stopped;
    }
    const usage = error instanceof UsageError || error instanceof ConfigError;
    const operating = error instanceof CommandError || error instanceof PackageError || error instanceof ServerError;
    if (!usage && !operating) throw error;
    io.stderr.write(`ponder-serve ${name}: ${error.message}\n`);
    if (usage) io.stderr.write(`Try: ponder-serve ${name} --help\n`);
    return usage ? EXIT.usage : EXIT.failed;
  } finally {
    io.stdout.off('error', ignore);
  }
}

/** Writes and waits while the reader is slower than we are. */
export async function write(stream: OutputStream, text: string): Promise<void> {
  if (!stream.writable) throw new OutputClosed();
  if (stream.write(text)) return;
  try {
    await once(stream, 'drain');
  } catch {
    throw new OutputClosed();
  }
}

/** A command's own flags: 'switch' takes no value, 'value' takes one. */
export type FlagKinds = Readonly<Record<string, 'switch' | 'value'>>;

export interface ParsedFlags<Kinds extends FlagKinds> {
  readonly values: { readonly [K in keyof Kinds]?: string };
  readonly positionals: readonly string[];
  /** The options of the server's table (`--threads 2`), for `parseConfig`. */
  readonly serverOptions: readonly string[];
}

/**
 * Flags are `--name value` or `--name=value`; what follows `--` is no flag, and `-` alone is none either. What begins with `--` is
 * taken for the next flag, not for a value, unless it comes after `=`: a flag that lacks its value must not swallow another.
 * @throws UsageError
 */
export function parseFlags<Kinds extends FlagKinds>(argv: readonly string[], kinds: Kinds): ParsedFlags<Kinds> {
  const values: Record<string, string> = {};
  const positionals: string[] = [];
  const serverOptions: string[] = [];
  const serverFlags = new Set(optionNames().map(flagOf));
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] as string;
    if (argument === '--') {
      positionals.push(...argv.slice(i + 1));
      break;
    }
    if (!argument.startsWith('-') || argument === '-') {
      positionals.push(argument);
      continue;
    }
    const equals = argument.indexOf('=');
    const flag = equals < 0 ? argument : argument.slice(0, equals);
    const name = flag.slice(2);
    const kind = flag.startsWith('--') && Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined && !serverFlags.has(flag)) {
      const known = [...Object.keys(kinds).map((own) => `--${own}`), ...serverFlags];
      throw new UsageError(`unknown option ${flag}${didYouMean(flag, known)}`);
    }
    if (kind === 'switch') {
      if (equals >= 0) throw new UsageError(`${flag} takes no value`);
      values[name] = '';
      continue;
    }
    const value = equals < 0 ? argv[++i] : argument.slice(equals + 1);
    if (value === undefined || (equals < 0 && value.startsWith('--'))) throw new UsageError(`${flag} needs a value`);
    if (kind === 'value') values[name] = value;
    else serverOptions.push(`${flag}=${value}`);
  }
  return { values: values as ParsedFlags<Kinds>['values'], positionals, serverOptions };
}

/** @throws UsageError unless the flag's value is an integer of at least 1; undefined if the flag was not given */
export function countFlag(flag: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!/^[1-9]\d{0,8}$/.test(value)) throw new UsageError(`--${flag} must be an integer of at least 1, not '${value}'`);
  return Number(value);
}

/** @throws UsageError unless the flag's value is a decimal number that is allowed; undefined if the flag was not given */
export function decimalFlag(
  flag: string,
  value: string | undefined,
  allowed: string,
  isAllowed: (x: number) => boolean,
): number | undefined {
  if (value === undefined) return undefined;
  const number = /^(\d+\.?\d*|\.\d+)(e-?\d+)?$/.test(value) ? Number(value) : Number.NaN;
  if (isAllowed(number)) return number;
  throw new UsageError(`--${flag} must be ${allowed}, not '${value}'`);
}

/** The loaders' errors are one line with the remedy, though of no class of their own. */
export async function orCommandError<T>(loading: Promise<T>): Promise<T> {
  try {
    return await loading;
  } catch (error) {
    if (error instanceof ServerError) throw error;
    throw new CommandError(error instanceof Error ? error.message : String(error));
  }
}
