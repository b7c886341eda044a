/** What the processes of `--workers` say to each other. A worker's /metrics asks the first process, which asks all workers. */
export type FromWorker =
  | { readonly ponder: 'scrape'; readonly id: number }
  | { readonly ponder: 'metrics'; readonly collection: number; readonly metrics: object };

export type ToWorker =
  /** Stop in order. */
  | { readonly ponder: 'stop' }
  | { readonly ponder: 'collect'; readonly collection: number }
  | { readonly ponder: 'scraped'; readonly id: number; readonly text: string };

/** Other libraries send messages of their own. */
export function isOurs(message: unknown): message is FromWorker | ToWorker {
  return typeof message === 'object' && message !== null && 'ponder' in message;
}
