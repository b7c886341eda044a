#!/usr/bin/env node
/** argv -> command; signals -> `stop`. */
import { constants } from 'node:os';
import { COMMANDS, usage } from './cli/commands.js';
import { didYouMean } from './nearest.js';
import { VERSION } from './version.js';

const [name = '--help', ...argv] = process.argv.slice(2);
process.exit(await main());

async function main(): Promise<number> {
  if (name === '--help' || name === '--version') {
    process.stdout.write(name === '--help' ? usage() : `${VERSION}\n`);
    return 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) {
    process.stderr.write(`unknown command ${name}${didYouMean(name, Object.keys(COMMANDS))}\n${usage()}`);
    return 2;
  }
  const run = await command.load();
  return run(argv, process, stopSignal(command.stops));
}

/** Aborts at the first signal. The second one, or the first of a command that can't stop in order, ends the process at once. */
function stopSignal(inOrder: boolean): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (!inOrder || stop.signal.aborted) process.exit(128 + constants.signals[signal]);
      stop.abort();
    });
  }
  return stop.signal;
}
