/**
 * `npm run loadtest -- closed`: the server saturated by a fixed number of connections. It shows what HTTP, tokenizer and scheduling cost
 * on top of the engine alone (measured in the same invocation, in alternating rounds, on the same token windows), whether the main
 * thread stays responsive meanwhile, and what memory does. Client and server must agree on every request and every token.
 */
import { describeMachine } from '../src/cli/bench-machine.js';
import { goldenText } from '../src/cli/bench-sequences.js';
import { chooseModel, MEASURED } from '../src/cli/choose-model.js';
import {
  CommandError,
  type CommandIo,
  countFlag,
  EXIT,
  type ParsedFlags,
  parseFlags,
  runCommand,
  Stopped,
  UsageError,
  write,
} from '../src/cli/command.js';
import { readText } from '../src/cli/read-text.js';
import { parseConfig } from '../src/config.js';
import type { ModelDescription } from '../src/models/description.js';
import { loadModels } from '../src/models/registry.js';
import { loadTokenizer } from '../src/tokenize/tokenizer.js';
import type { Piece } from './closed-load.js';
import { fill } from './closed-memory.js';
import { saturate } from './closed-rounds.js';
import type { Options } from './closed-session.js';
import { saveResult } from './results.js';
import { runningServer, startServer } from './server.js';

const FLAGS = {
  model: 'value',
  connections: 'value',
  seconds: 'value',
  rounds: 'value',
  length: 'value',
  requests: 'value',
  url: 'value',
  file: 'value',
  save: 'switch',
  json: 'switch',
  help: 'switch',
} as const;

export const USAGE = `Usage: npm run loadtest -- closed [options]

  --model NAME       package to ask for; may be left out when one of those served scores text
  --connections N    requests in flight (default: 64)
  --seconds N        about so long is a round of HTTP, and so is one of the engine alone (default: 20)
  --rounds N         rounds; medians are quoted (default: 3)
  --length N         about so many tokens has a text (default: 128)
  --file FILE        where the texts come from (default: the package's own examples)
  --url URL          a server that runs already; the engine alone is then not measured
  --requests N       the memory test instead: N requests, resident memory after each thousand
  --save             also write the result to loadtest/results/
  --json             print the result as JSON

Every option of the server works too (--threads, --precision, --batch-rows-max; see ponder-serve serve --help). Exits with 1 when
client and server do not agree on every request and every token.
`;

/** More texts repeat nothing sooner than any cache could notice. */
const PIECES_MAX = 4096;

export function run(argv: string[], io: CommandIo, stop: AbortSignal = new AbortController().signal): Promise<number> {
  return runCommand('loadtest closed', io, async () => {
    const { values, positionals, serverOptions } = parseFlags(argv, FLAGS);
    if (values.help !== undefined) {
      await write(io.stdout, USAGE);
      return EXIT.ok;
    }
    if (positionals.length > 0) throw new UsageError(`unexpected argument ${positionals[0]}`);
    const options = optionsOf(values);
    const config = parseConfig(serverOptions, process.env);
    const model = await chooseModel(config, values.model, MEASURED, loadModels);
    const pieces = await cutPieces(model, options, io);
    const server = options.url === null ? await startServer(serverOptions) : runningServer(options.url);
    try {
      const session = {
        model: model.id,
        server,
        pieces,
        options,
        stop,
        say: (text: string) => void io.stderr.write(text),
      };
      const outcome = options.requests === null ? await saturate(session, config, model) : await fill(session);
      const result = {
        measuredAt: new Date().toISOString(),
        machine: await describeMachine(),
        model: model.id,
        options: { ...options, serverOptions, threads: config.threads, precision: config.precision },
        // The texts come from the file in order; nothing is drawn.
        seed: null,
        ...outcome.result,
      };
      const json = `${JSON.stringify(result, null, 2)}\n`;
      if (values.save !== undefined)
        io.stderr.write(`saved to ${await saveResult('closed', result.measuredAt, { json })}\n`);
      await write(io.stdout, values.json !== undefined ? json : outcome.text);
      for (const problem of outcome.problems) io.stderr.write(`client and server disagree: ${problem}\n`);
      return outcome.problems.length === 0 ? EXIT.ok : EXIT.failed;
    } catch (error) {
      throw stop.aborted ? new Stopped() : error;
    } finally {
      await server.stop();
    }
  });
}

function optionsOf(values: ParsedFlags<typeof FLAGS>['values']): Options {
  const options = {
    connections: countFlag('connections', values.connections) ?? 64,
    seconds: countFlag('seconds', values.seconds) ?? 20,
    rounds: countFlag('rounds', values.rounds) ?? 3,
    length: countFlag('length', values.length) ?? 128,
    requests: countFlag('requests', values.requests) ?? null,
    url: values.url ?? null,
    file: values.file ?? null,
  };
  if (options.requests !== null && options.requests < 2 * options.connections) {
    throw new UsageError(`--requests ${options.requests} is less than two a connection: lower --connections`);
  }
  return options;
}

/** Texts of about `length` tokens, with the ids that they have by themselves: at a cut the tokenizer may decide otherwise. */
async function cutPieces(model: ModelDescription, { file, length }: Options, io: CommandIo): Promise<Piece[]> {
  const tokenizer = await loadTokenizer(model.folder);
  const text = file === null ? await goldenText(model.folder) : await readText(file, io.stdin);
  const { ids, offsets } = await tokenizer.encode(text);
  const pieces: Piece[] = [];
  for (let start = 0; start + length <= ids.length && pieces.length < PIECES_MAX; start += length) {
    const piece = text.slice(offsets[start], offsets[start + length]);
    const encoded = await tokenizer.encode(piece);
    if (encoded.ids.length > 0 && encoded.ids.length < model.contextTokens)
      pieces.push({ text: piece, ids: encoded.ids });
  }
  if (pieces.length === 0)
    throw new CommandError(`there is no text of ${length} tokens: give a longer --file, or lower --length`);
  return pieces;
}
