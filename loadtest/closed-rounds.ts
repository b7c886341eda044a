/** Rounds of the saturated server and of the engine alone, in alternating order. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Helper } from '../src/cli/bench-child.js';
import type { EngineMeasured } from '../src/cli/bench-engine.js';
import { Stopped } from '../src/cli/command.js';
import type { Config } from '../src/config.js';
import type { ModelDescription } from '../src/models/description.js';
import { driveClosed, pieceOf } from './closed-load.js';
import { type ClosedRounds, disagreements, type HttpRound, renderClosed } from './closed-report.js';
import { type Outcome, residentOf, type Session, settledCounts } from './closed-session.js';
import type { EngineAloneRequest } from './engine-alone.js';
import { LivenessProbe } from './liveness-probe.js';
import { scrape } from './server.js';

const PROBE_EVERY_MS = 20;

export async function saturate(session: Session, config: Config, model: ModelDescription): Promise<Outcome> {
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
