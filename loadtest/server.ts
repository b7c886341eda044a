/** The server under test: started as its users start it, and read through its own metrics. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CommandError } from '../src/cli/command.js';
import { monotonicMs } from '../src/clock.js';

export interface ServerUnderTest {
  readonly url: string;
  /** From starting the process until it listens; null when it ran already. */
  readonly readyMs: number | null;
  /** Most memory it ever had resident; null when unknown (another machine, not Linux). */
  peakBytes(): Promise<number | null>;
  /** Ends a server that we started; its exit code. */
  stop(): Promise<number | null>;
  /** SIGTERM, without waiting. */
  terminate(): void;
}

export function runningServer(url: string): ServerUnderTest {
  return {
    url: url.replace(/\/+$/, ''),
    readyMs: null,
    peakBytes: async () => null,
    stop: async () => null,
    terminate: () => {},
  };
}

/** @param processes that must be ready. @param options of `ponder-serve serve`. @throws CommandError when the server ends before it is ready */
export async function startServer(options: readonly string[], processes = 1): Promise<ServerUnderTest> {
  const main = fileURLToPath(new URL('../src/main.js', import.meta.url));
  const startedAtMs = monotonicMs();
  const child = spawn(
    process.execPath,
    [main, 'serve', ...options, '--host=127.0.0.1', '--port=0', '--log-level=info'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const exited = once(child, 'exit');
  let ready = 0;
  const url = new Promise<string>((resolve, reject) => {
    // Read to the end: a server whose log nobody reads would stop.
    createInterface(child.stdout).on('line', (line) => {
      const at = /"msg":"ready at (http:[^ ,"]+)/.exec(line)?.[1];
      if (at !== undefined && ++ready === processes) resolve(at);
    });
    exited.then(() => reject(new CommandError('the server ended before it was ready')));
  });
  return {
    url: await url,
    readyMs: monotonicMs() - startedAtMs,
    peakBytes: () => peakOf(child.pid),
    stop: async () => {
      if (child.exitCode === null) child.kill('SIGTERM');
      await exited;
      return child.exitCode;
    },
    terminate: () => void child.kill('SIGTERM'),
  };
}

async function peakOf(pid: number | undefined): Promise<number | null> {
  try {
    const kibibytes = /^VmHWM:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'));
    return kibibytes === null ? null : Number(kibibytes[1]) * 1024;
  } catch {
    return null;
  }
}

/** The samples of one scrape. */
export class Scrape {
  private readonly samples: { readonly name: string; readonly labels: string; readonly value: number }[];

  constructor(text: string) {
    this.samples = text.split('\n').flatMap((line) => {
      const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/.exec(line);
      return sample === null ? [] : [{ name: sample[1] as string, labels: sample[2] ?? '', value: Number(sample[3]) }];
    });
  }

  /** The values that `label` takes among the samples of `name`. */
  values(name: string, label: string): string[] {
    const found = this.samples.flatMap((sample) =>
      sample.name === name ? (new RegExp(`(?:^|,)${label}="([^"]*)"`).exec(sample.labels)?.[1] ?? []) : [],
    );
    return [...new Set(found)];
  }

  /** Sum over all label sets of `name` that hold each of `labels`, such as `outcome="OK"`; 0 when there are none. */
  sum(name: string, ...labels: readonly string[]): number {
    return this.samples
      .filter((sample) => sample.name === name && labels.every((label) => sample.labels.split(',').includes(label)))
      .reduce((sum, { value }) => sum + value, 0);
  }
}

/** Scraping also starts the next interval of the event-loop lag: what it says is the time since the last scrape. */
export async function scrape(url: string): Promise<Scrape> {
  const reply = await fetch(`${url}/metrics`);
  if (!reply.ok) throw new CommandError(`GET ${url}/metrics answered ${reply.status}`);
  return new Scrape(await reply.text());
}
