/** The memory test: what the server holds after more and more requests. */
import { Stopped } from '../src/cli/command.js';
import { driveClosed } from './closed-load.js';
import { disagreements, type MemoryPoint, memoryTrend, renderMemory } from './closed-report.js';
import { type Outcome, residentOf, type Session, settledCounts } from './closed-session.js';
import { scrape } from './server.js';

/** Blocks of a thousand requests, the first of which warms. */
export async function fill(session: Session): Promise<Outcome> {
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
