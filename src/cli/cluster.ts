/**
 * `serve --workers n`: this process starts n others, which share the port, each with an engine of its own. It serves nothing itself: it
 * starts a worker anew that died, adds up their metrics, and passes stop and reload on.
 */
import { execFile } from 'node:child_process';
import cluster, { type Worker } from 'node:cluster';
import { availableParallelism } from 'node:os';
import { monotonicMs } from '../clock.js';
import type { Config } from '../config.js';
import { aggregateMetrics } from '../metrics/aggregate.js';
import { type FromWorker, isOurs, type ToWorker } from './cluster-messages.js';
import { CommandError, type CommandIo, EXIT } from './command.js';

/** A worker that dies sooner than this after its start is not started at once again. */
const STABLE_AFTER_MS = 10_000;
const RESTART_DELAY_MS = 1000;
/** Workers that have not told their metrics by then are left out of a scrape. */
const COLLECT_MS_MAX = 1500;

interface Collection {
  readonly metrics: object[];
  readonly missing: Set<number>;
  readonly done: () => void;
}

/** Cores of worker i of n, as `taskset` names them; null: there are not enough to give each its own. */
export function coresOf(i: number, workers: number, threads: number, cores: number): string | null {
  if (workers * threads > cores) return null;
  const share = Math.floor(cores / workers);
  return share === 1 ? String(i) : `${i * share}-${(i + 1) * share - 1}`;
}

/** Threads of each worker: all cores among them, unless told. */
export function threadsOf({ workers, threads }: Pick<Config, 'workers' | 'threads'>, told: boolean): number {
  return told ? threads : Math.max(1, Math.floor(threads / workers));
}

/** @param entry what the workers run. @param onHangup passes SIGHUP on. Resolves when all workers have ended after `stop`. */
export async function runCluster(
  entry: string,
  argv: readonly string[],
  config: Config,
  threads: number,
  io: CommandIo,
  stop: AbortSignal,
  onHangup: (listener: () => void) => () => void,
): Promise<number> {
  const primary = new Primary(entry, argv, config, threads, io);
  const stopReloading = onHangup(() => primary.hangup());
  try {
    return await primary.run(stop);
  } finally {
    stopReloading();
  }
}

class Primary {
  private readonly collections = new Map<number, Collection>();
  private nextCollection = 1;
  private stopping = false;
  private everListened = false;
  /** Place of each worker among the cores. */
  private readonly places = new Map<number, number>();
  private readonly startedAtMs = new Map<number, number>();

  constructor(
    entry: string,
    argv: readonly string[],
    private readonly config: Config,
    private readonly threads: number,
    private readonly io: CommandIo,
  ) {
    // The last of two equal flags counts.
    cluster.setupPrimary({ exec: entry, args: ['serve', ...argv, '--workers=1', `--threads=${threads}`] });
  }

  run(stop: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      let failure: CommandError | null = null;
      for (let place = 0; place < this.config.workers; place++) this.fork(place);
      cluster.on('message', (worker, message: unknown) => {
        if (isOurs(message)) void this.receive(worker, message as FromWorker);
      });
      cluster.on('listening', () => {
        this.everListened = true;
      });
      cluster.on('exit', (worker, code, signal) => {
        const place = this.places.get(worker.id) ?? 0;
        this.places.delete(worker.id);
        for (const collection of this.collections.values()) this.arrived(collection, worker.id);
        if (!this.stopping && !this.everListened) {
          // The worker has said why on stderr, which it shares with us.
          failure = new CommandError(`no worker could start (exit code ${code})`);
          this.stopAll();
        }
        if (this.stopping) {
          if (this.places.size > 0) return;
          if (failure === null) resolve(EXIT.ok);
          else reject(failure);
          return;
        }
        this.io.stderr.write(
          `ponder-serve serve: a worker died (${signal ?? `exit code ${code}`}); another one starts\n`,
        );
        const livedMs = monotonicMs() - (this.startedAtMs.get(worker.id) ?? 0);
        setTimeout(
          () => {
            if (!this.stopping) this.fork(place);
          },
          livedMs < STABLE_AFTER_MS ? RESTART_DELAY_MS : 0,
        );
      });
      const onStop = () => {
        this.stopAll();
        if (this.places.size === 0) resolve(EXIT.ok);
      };
      if (stop.aborted) onStop();
      else stop.addEventListener('abort', onStop, { once: true });
    });
  }

  private fork(place: number): void {
    const worker = cluster.fork();
    this.places.set(worker.id, place);
    this.startedAtMs.set(worker.id, monotonicMs());
    worker.once('online', () => this.pin(worker, place));
  }

  /** Where the machine has no taskset the system decides. */
  private pin(worker: Worker, place: number): void {
    const cores = coresOf(place, this.config.workers, this.threads, availableParallelism());
    if (cores === null) return;
    execFile('taskset', ['-acp', cores, String(worker.process.pid)], () => {});
  }

  private async receive(worker: Worker, message: FromWorker): Promise<void> {
    switch (message.ponder) {
      case 'scrape': {
        const text = await aggregateMetrics(await this.collect());
        if (worker.isConnected()) send(worker, { ponder: 'scraped', id: message.id, text });
        break;
      }
      case 'metrics': {
        const collection = this.collections.get(message.collection);
        if (collection === undefined) break;
        collection.metrics.push(message.metrics);
        this.arrived(collection, worker.id);
        break;
      }
      default:
        message satisfies never;
    }
  }

  private arrived(collection: Collection, workerId: number): void {
    collection.missing.delete(workerId);
    if (collection.missing.size === 0) collection.done();
  }

  private async collect(): Promise<readonly object[]> {
    const id = this.nextCollection++;
    const workers = this.workers();
    const metrics: object[] = [];
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, COLLECT_MS_MAX);
      const done = () => {
        clearTimeout(timer);
        resolve();
      };
      this.collections.set(id, { metrics, missing: new Set(workers.map((worker) => worker.id)), done });
      for (const worker of workers) send(worker, { ponder: 'collect', collection: id });
    });
    this.collections.delete(id);
    return metrics;
  }

  private workers(): Worker[] {
    return Object.values(cluster.workers ?? {}).filter((worker) => worker?.isConnected() === true) as Worker[];
  }

  private stopAll(): void {
    this.stopping = true;
    for (const worker of this.workers()) send(worker, { ponder: 'stop' });
  }

  hangup(): void {
    for (const worker of this.workers()) worker.process.kill('SIGHUP');
  }
}

function send(worker: Worker, message: ToWorker): void {
  worker.send(message, undefined, () => {
    // It may have ended meanwhile; its exit is heard of.
  });
}
