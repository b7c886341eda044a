/** THE command table. A command is loaded when it is called: `inspect` needs neither the HTTP server nor the runtime. */
import type { CommandIo } from './command.js';

/** Returns the exit code. `stop` aborts at the first SIGTERM or SIGINT; a command that ignores it ends at the second. */
export type Command = (argv: string[], io: CommandIo, stop: AbortSignal) => Promise<number>;

interface CommandEntry {
  readonly help: string;
  readonly load: () => Promise<Command>;
  /** Whether the command ends by itself when asked to stop; the others end at once. */
  readonly stops: boolean;
}

export const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  serve: { help: 'Serve models over HTTP.', load: async () => (await import('./serve.js')).run, stops: true },
  score: { help: 'Score a text file.', load: async () => (await import('./score.js')).run, stops: true },
  generate: { help: 'Continue a text.', load: async () => (await import('./generate.js')).run, stops: true },
  translate: {
    help: 'Translate a text file, and go on with a broken run.',
    load: async () => (await import('./translate.js')).run,
    stops: true,
  },
  inspect: {
    help: 'Print the facts of a model package and verify it.',
    load: async () => (await import('./inspect.js')).run,
    stops: false,
  },
  export: {
    help: 'Make a model package of a PyTorch checkpoint.',
    load: async () => (await import('./export.js')).run,
    stops: true,
  },
  bench: {
    help: 'Measure adaptive against full depth, and against other loops.',
    load: async () => (await import('./bench.js')).run,
    stops: true,
  },
  'gpu-install': {
    help: 'Fetch what serving on a GPU needs, and tell what is missing.',
    load: async () => (await import('./gpu-install.js')).run,
    stops: true,
  },
  tune: {
    help: 'Measure what quality costs, and recommend settings.',
    load: async () => (await import('./tune.js')).run,
    stops: true,
  },
};

export function usage(): string {
  const lines = Object.entries(COMMANDS).map(([name, { help }]) => `  ${name.padEnd(13)}${help}`);
  return `Usage: ponder-serve COMMAND [options]\n\n${lines.join('\n')}\n\nponder-serve COMMAND --help tells the options of one.\n`;
}
