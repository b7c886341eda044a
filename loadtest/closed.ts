/**
 * `npm run loadtest -- closed`: the server saturated by a fixed number of connections. It shows what HTTP, tokenizer and scheduling cost
 * on top of the engine alone (measured in the same invocation, in alternating rounds, on the same token windows), whether the main
 * thread stays responsive meanwhile, and what memory does. Client and server must agree on every request and every token.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Helper } from '../src/cli/bench-child.js';
import type { EngineMeasured } from '../src/cli/bench-engine.js';
import { describeMachine } from '../src/cli/bench-machine.js';
import { loadScorer } from '../src/cli/bench-model.js';
import { goldenText } from '../src/cli/bench-sequences.js';
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
import { type Config, parseConfig } from '../src/config.js';
import type { ModelDescription } from '../src/models/description.js';
import { loadTokenizer } from '../src/tokenize/tokenizer.js';
import { driveClosed, type Piece, pieceOf } from './closed-load.js';
import {
  type ClosedRounds,
  disagreements,
  type HttpRound,
  type MemoryPoint,
  memoryTrend,
  renderClosed,
  renderMemory,
  type ServerCounts,
} from './closed-report.js';
import type { EngineAloneRequest } from './engine-alone.js';
import { LivenessProbe } from './liveness-probe.js';
import { runningServer, type Scrape, type ServerUnderTest, scrape, startServer } from './server.js';

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

const PROBE_EVERY_MS = 20;
/** The server counts a request when its connection has taken the reply, which may be after the client has read it. */
const COUNTED_WITHIN_MS = 2000;
/** More texts repeat nothing sooner than any cache could notice. */
const PIECES_MAX = 4096;

interface Options {
  readonly connections: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly length: number;
  readonly requests: number | null;
  readonly url: string | null;
  readonly file: string | null;
}

interface Session {
  /** Its name in requests. */
  readonly model: string;
  readonly server: ServerUnderTest;
  readonly pieces: readonly Piece[];
  readonly options: Options;
  readonly stop: AbortSignal;
  readonly say: (text: string) => void;
}

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
    const model = await loadScorer(config, values.model);
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
      if (values.save !== undefined) await save(json, result.measuredAt, io);
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

interface Outcome {
  readonly result: object;
  readonly text: string;
  readonly problems: readonly string[];
}

async function saturate(session: Session, config: Config, model: ModelDescription): Promise<Outcome> {
  const { server, pieces, options, say } = session;
  const { connections } = options;
  const alone =
    options.url === null
      ? new Helper<EngineAloneRequest, EngineMeasured>(
          new URL('./engine-alone.js', import.meta.url),
          'the engine alone',
        )
      : null;
  const runAlone = async (requests: number): Promise<EngineMeasured | null> => {
    if (alone === null) return null;
    const sequences = Array.from({ length: requests }, (_, k) => pieceOf(pieces, k).ids);
    return alone.ask({ config, model, sequences, concurrency: connections });
  };
  try {
    const residentIdleBytes = residentOf(await scrape(server.url));
    const warming = await driveClosed({
      url: server.url,
      model: model.id,
      pieces,
      connections,
      requests: 2 * connections,
    });
    await warming.ended;
    const warm = warming.result;
    await runAlone(connections);
    const residentWarmBytes = residentOf(await scrape(server.url));
    const requests = Math.max(connections, Math.round((warm.answers / warm.seconds) * options.seconds));
    say(`${requests} requests a round\n`);
    const http: HttpRound[] = [];
    const engine: EngineMeasured[] = [];
    const problems: string[] = [];
    const steps = [
      async () => {
        const round = await httpRound(session, requests);
        http.push(round);
        problems.push(...disagreements(round.load, round.server, requests));
        return `HTTP ${Math.round(round.load.tokens / round.load.seconds)} tokens/s`;
      },
      async () => {
        const measured = await runAlone(requests);
        if (measured !== null) engine.push(measured);
        return measured === null ? '' : `engine alone ${Math.round(measured.tokens / measured.seconds)} tokens/s`;
      },
    ];
    for (let i = 0; i < options.rounds; i++) {
      for (const step of i % 2 === 0 ? steps : [...steps].reverse()) {
        if (session.stop.aborted) throw new Stopped();
        say(`round ${i + 1} of ${options.rounds}: ${await step()}\n`);
      }
    }
    const residentPeakBytes = await server.peakBytes();
    const rounds: ClosedRounds = {
      readyMs: server.readyMs,
      residentIdleBytes,
      residentWarmBytes,
      residentPeakBytes,
      http,
      engine,
    };
    const title = `${model.id} ${model.precision}, ${connections} connections, about ${options.length} tokens a text, ${requests} requests a round\n\n`;
    const agree = problems.length === 0 ? 'client and server agree on every request and every token\n' : '';
    return { result: { requests, ...rounds, problems }, text: `${title}${renderClosed(rounds)}${agree}`, problems };
  } finally {
    await alone?.end();
  }
}

async function httpRound({ model, server, pieces, options }: Session, requests: number): Promise<HttpRound> {
  const before = await scrape(server.url);
  const cpuBefore = process.cpuUsage();
  const probe = new LivenessProbe(server.url, PROBE_EVERY_MS);
  probe.start();
  const clientLag = monitorEventLoopDelay({ resolution: 2 });
  clientLag.enable();
  const driven = await driveClosed({
    url: server.url,
    model,
    pieces,
    connections: options.connections,
    requests,
  }).finally(() => probe.stop());
  clientLag.disable();
  const clientCpu = process.cpuUsage(cpuBefore);
  // Before autocannon has ended: the lag that it says is then that of the load, and not of a second without any.
  const after = await scrape(server.url);
  const liveness = await probe.stop();
  await driven.ended;
  return {
    load: driven.result,
    liveness,
    server: await settledCounts(server.url, before, after, requests),
    eventLoopLagP99Ms: after.sum('nodejs_eventloop_lag_p99_seconds') * 1000,
    eventLoopLagMaxMs: after.sum('nodejs_eventloop_lag_max_seconds') * 1000,
    clientLagP99Ms: clientLag.percentile(99) / 1e6,
    clientLagMaxMs: clientLag.max / 1e6,
    residentBytes: residentOf(after),
    serverCpuSeconds: after.sum('process_cpu_seconds_total') - before.sum('process_cpu_seconds_total'),
    clientCpuSeconds: (clientCpu.user + clientCpu.system) / 1e6,
  };
}

async function settledCounts(url: string, before: Scrape, after: Scrape, requests: number): Promise<ServerCounts> {
  let counts = countsBetween(before, after);
  for (let waitedMs = 0; counts.ok + counts.others < requests && waitedMs < COUNTED_WITHIN_MS; waitedMs += 50) {
    await sleep(50);
    counts = countsBetween(before, await scrape(url));
  }
  return counts;
}

function countsBetween(before: Scrape, after: Scrape): ServerCounts {
  const grown = (name: string, ...labels: string[]) => after.sum(name, ...labels) - before.sum(name, ...labels);
  const route = 'route="/v1/score"';
  const ok = grown('ponder_requests_total', route, 'outcome="OK"');
  return { ok, others: grown('ponder_requests_total', route) - ok, tokens: grown('ponder_tokens_total') };
}

function residentOf(samples: Scrape): number {
  return samples.sum('process_resident_memory_bytes');
}

/** The memory test: blocks of a thousand requests, the first of which warms. */
async function fill(session: Session): Promise<Outcome> {
  const { model, server, pieces, options, stop, say } = session;
  const requests = options.requests as number;
  const block = Math.max(options.connections, Math.min(1000, Math.ceil(requests / 10)));
  const before = await scrape(server.url);
  const residentIdleBytes = residentOf(before);
  const points: MemoryPoint[] = [];
  const problems: string[] = [];
  for (let done = 0; done + block <= requests; ) {
    if (stop.aborted) throw new Stopped();
    const start = await scrape(server.url);
    const driven = await driveClosed({
      url: server.url,
      model,
      pieces,
      connections: options.connections,
      requests: block,
    });
    const load = driven.result;
    const end = await scrape(server.url);
    await driven.ended;
    problems.push(...disagreements(load, await settledCounts(server.url, start, end, block), block));
    done += block;
    points.push({ requests: done, residentBytes: residentOf(end) });
    say(`${done} of ${requests} requests, ${Math.round(residentOf(end) / 2 ** 20)} MiB resident\n`);
  }
  const trend = memoryTrend(points);
  const residentPeakBytes = await server.peakBytes();
  return {
    result: { residentIdleBytes, residentPeakBytes, memory: points, trend, problems },
    text: renderMemory(points, trend),
    problems,
  };
}

async function save(json: string, measuredAt: string, io: CommandIo): Promise<void> {
  const folder = fileURLToPath(new URL('../../loadtest/results/', import.meta.url));
  await mkdir(folder, { recursive: true });
  const file = `${folder}closed-${measuredAt.replace(/[:.]/g, '-')}.json`;
  await writeFile(file, json);
  io.stderr.write(`saved to ${file}\n`);
}
