/**
 * The engine's thread is killed under load, again and again: requests in flight get 503, it is back in two seconds, and neither memory
 * nor handles grow. The server runs in this process, because a thread can only be killed from within.
 */
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Worker } from 'node:worker_threads';
import { median } from '../../src/cli/bench-arithmetic.js';
import { run as serve } from '../../src/cli/serve.js';
import { monotonicMs } from '../../src/clock.js';
import { spawnWorker } from '../../src/engine/keeper.js';
import { startEngine } from '../../src/engine/start.js';
import { loadModels } from '../../src/models/registry.js';
import { loadTokenizer } from '../../src/tokenize/tokenizer.js';
import { Random } from '../../test/seed.js';
import { OpenClient } from '../open-client.js';
import { WORKLOADS } from '../workloads.js';
import { trialContext } from './context.js';
import { counted, countsText, type Trial } from './trial.js';

const IN_FLIGHT = 12;
const BACK_MS_MAX = 2000;
/** A restarted engine may be behind: what is refused at the door was not lost. */
const ALLOWED = ['OK', 'ENGINE_LOST', 'NOT_READY', 'QUEUE_FULL'];

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** Of what is resident without an engine, from the second quarter of the kills to the last one: caches fill and memory is cut up at first. */
const GROWTH_MAX = 0.05;

export const kill: Trial = {
  name: 'kill',
  help: 'The engine is killed under load: requests in flight get 503, it is back in two seconds, nothing leaks.',
  times: 20,
  seconds: 1,
  run: async ({ times, seconds, seed, serverOptions }, stop, say) => {
    let worker: Worker | null = null;
    const end = new AbortController();
    const stdout = new PassThrough();
    const url = listening(stdout);
    const io = { stdin: new PassThrough(), stdout: process.stdout, stderr: process.stderr };
    const argv = [...serverOptions, '--host=127.0.0.1', '--port=0', '--log-level=info'];
    const served = serve(argv, io, end.signal, {
      env: process.env,
      loadModels,
      loadTokenizer,
      log: stdout,
      onHangup: () => () => {},
      startEngine: (config, models) =>
        startEngine(config, models, (setup) => {
          worker = spawnWorker(setup);
          return worker;
        }),
    });
    const client = new OpenClient(await url);
    const outcomes: string[] = [];
    const backMs: number[] = [];
    const residentBytes: number[] = [];
    const handles: number[] = [];
    const problems: string[] = [];
    let done = false;
    const random = new Random(seed);
    const context = await trialContext(serverOptions);
    const load = Array.from({ length: IN_FLIGHT }, async () => {
      while (!done) {
        const { outcome } = await client.send(WORKLOADS.mixed(random, context), monotonicMs());
        outcomes.push(outcome);
        // Who is refused waits a little, as Retry-After asks.
        if (outcome !== 'OK') await sleep(100);
      }
    });
    try {
      for (let time = 1; time <= times && !stop.aborted; time++) {
        await sleep(seconds * 1000);
        const killedAtMs = monotonicMs();
        await (worker as Worker | null)?.terminate();
        collectGarbage();
        const { backAfterMs: back, leastBytes } = await untilReady(await url, killedAtMs);
        backMs.push(back);
        residentBytes.push(leastBytes);
        handles.push(process.getActiveResourcesInfo().length);
        if (back > BACK_MS_MAX) problems.push(`kill ${time}: back after ${back.toFixed(0)} ms`);
        say(
          `kill ${time} of ${times}: back after ${back.toFixed(0)} ms, ${(leastBytes / 2 ** 20).toFixed(0)} MiB without it\n`,
        );
      }
    } finally {
      done = true;
      await Promise.all(load);
      client.close();
      end.abort();
      await served;
    }
    const odd = outcomes.filter((outcome) => !ALLOWED.includes(outcome));
    if (odd.length > 0) problems.push(`requests ended with ${countsText(counted(odd))}`);
    const quarter = Math.max(1, Math.floor(residentBytes.length / 4));
    const growth = median(residentBytes.slice(-quarter)) / median(residentBytes.slice(quarter, 2 * quarter)) - 1;
    if (residentBytes.length > 10 && growth > GROWTH_MAX)
      problems.push(`resident memory grew by ${(growth * 100).toFixed(1)} %`);
    return {
      rows: [
        ['requests', countsText(counted(outcomes))],
        ['back in service, least and most', `${Math.min(...backMs).toFixed(0)}, ${Math.max(...backMs).toFixed(0)} ms`],
        ['resident memory without an engine, second to last quarter', `${(growth * 100).toFixed(1)} %`],
        ['handles of the process, first and last', `${handles[0]}, ${handles.at(-1)}`],
      ],
      result: { outcomes: counted(outcomes), backMs, residentBytes, handles },
      problems,
    };
  },
};

/** The server's log says where it listens. */
function listening(log: PassThrough): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    log.setEncoding('utf8').on('data', (chunk: string) => {
      text = (text + chunk).slice(-4096);
      const ready = /"msg":"ready at (http:[^ ,"]+)/.exec(text);
      if (ready !== null) resolve(ready[1] as string);
    });
  });
}

/**
 * Milliseconds from the kill until a request sent then would be served, and the least resident memory meanwhile: what is left of an engine
 * when its successor has released it and not yet opened anything itself.
 */
async function untilReady(url: string, killedAtMs: number): Promise<{ backAfterMs: number; leastBytes: number }> {
  let leastBytes = process.memoryUsage.rss();
  for (;;) {
    const { ok } = await fetch(`${url}/health/ready`);
    if (ok) return { backAfterMs: monotonicMs() - killedAtMs, leastBytes };
    await sleep(5);
    leastBytes = Math.min(leastBytes, process.memoryUsage.rss());
  }
}
