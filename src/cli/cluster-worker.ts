/** A worker's side of `--workers`: it stops when the first process says so, and its /metrics are those of all. */
import { exportMetrics } from '../metrics/aggregate.js';
import type { Metrics } from '../metrics/metrics.js';
import { type FromWorker, isOurs, type ToWorker } from './cluster-messages.js';

/** A first process that does not answer within this time leaves a scrape with the metrics of this worker. */
const SCRAPE_MS_MAX = 2000;

/** What a worker needs of its process; tests bring their own. */
export interface Channel {
  send(message: FromWorker): void;
  on(event: 'message', listener: (message: unknown) => void): void;
}

export class ClusterWorker {
  private readonly waiting = new Map<number, (text: string) => void>();
  private nextId = 1;

  constructor(
    private readonly channel: Channel,
    private readonly metrics: Pick<Metrics, 'registry'>,
    onStop: () => void,
  ) {
    channel.on('message', (message) => {
      if (isOurs(message)) this.receive(message as ToWorker, onStop);
    });
  }

  private receive(message: ToWorker, onStop: () => void): void {
    switch (message.ponder) {
      case 'stop':
        onStop();
        break;
      case 'collect': {
        const { collection } = message;
        void exportMetrics(this.metrics.registry).then((metrics) => {
          this.channel.send({ ponder: 'metrics', collection, metrics });
        });
        break;
      }
      case 'scraped':
        this.waiting.get(message.id)?.(message.text);
        this.waiting.delete(message.id);
        break;
      default:
        message satisfies never;
    }
  }

  /** The metrics of all workers, as text. */
  async scrape(): Promise<string> {
    const id = this.nextId++;
    const text = await new Promise<string | null>((resolve) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        resolve(null);
      }, SCRAPE_MS_MAX);
      this.waiting.set(id, (all) => {
        clearTimeout(timer);
        resolve(all);
      });
      this.channel.send({ ponder: 'scrape', id });
    });
    return text ?? this.metrics.registry.metrics();
  }
}
