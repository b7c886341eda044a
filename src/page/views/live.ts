/** Live: what the server does now, from its own metrics, asked for while the view is open and the tab can be seen. */
import { ApiError, ask, isAbort, messageOf } from '../api.js';
import { drawFacts } from '../candidates.js';
import { el, need } from '../dom.js';
import { placeOf, writePlace } from '../link.js';
import { type LiveFigures, liveFigures, stackFigures } from '../live-figures.js';
import { Notice } from '../notice.js';
import { parseScrape, type Scrape, sumOf } from '../prometheus.js';
import { ShareBar } from '../share-bar.js';
import { drawSparkline } from '../sparkline.js';
import { count, fixed, milliseconds, percent, short } from '../text.js';
import type { View } from './view.js';

const PATH = 'metrics';
const INTERVAL_MS = 1000;
/** Two minutes of lines. */
const POINTS = 120;
/** Figures are of the last seconds, so that one slow request does not make them jump. */
const WINDOW_SCRAPES = 5;

interface Card {
  readonly id: string;
  readonly value: (figures: LiveFigures) => number;
  readonly shown: (figures: LiveFigures) => string;
  readonly beside: (figures: LiveFigures) => string;
}

const CARDS: readonly Card[] = [
  {
    id: 'throughput',
    value: ({ tokensPerSecond }) => tokensPerSecond,
    shown: ({ tokensPerSecond }) => short(tokensPerSecond),
    beside: ({ requestsPerSecond, refusedPerSecond }) =>
      `${short(requestsPerSecond)} requests/s answered, ${short(refusedPerSecond)} refused or failed`,
  },
  {
    id: 'depth',
    value: ({ meanDepth }) => meanDepth,
    shown: ({ meanDepth }) => fixed(meanDepth, 2),
    beside: () => 'steps of the positions that halted',
  },
  {
    id: 'share',
    value: ({ realisedShare }) => realisedShare,
    shown: ({ realisedShare }) => percent(realisedShare),
    beside: () => 'of what halting can save, by rows computed',
  },
  {
    id: 'latency',
    value: ({ latencyP95Seconds }) => latencyP95Seconds,
    shown: ({ latencyP50Seconds }) => milliseconds(latencyP50Seconds * 1000),
    beside: ({ latencyP95Seconds }) =>
      `half of the requests were faster; p95 ${milliseconds(latencyP95Seconds * 1000)}`,
  },
  {
    id: 'queue',
    value: ({ waiting }) => waiting,
    shown: ({ waiting }) => count(waiting),
    beside: ({ running, inWork }) => `${count(running)} sequences running, ${count(inWork)} requests in work`,
  },
];

export class LiveView implements View {
  readonly #notice = new Notice('live');
  readonly #share = new ShareBar('live');
  readonly #pause = need('live-pause', HTMLButtonElement);
  readonly #lines = new Map<string, number[]>(CARDS.map(({ id }) => [id, []]));
  readonly #scrapes: { readonly atMs: number; readonly scrape: Scrape }[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asking = new AbortController();
  #open = false;
  #paused = false;

  constructor() {
    this.#pause.addEventListener('click', () => {
      this.#paused = !this.#paused;
      this.#pause.textContent = this.#paused ? 'Go on' : 'Pause';
      this.#restart();
    });
    document.addEventListener('visibilitychange', () => this.#restart());
  }

  open(): void {
    this.#open = true;
    writePlace(placeOf('live', {}));
    this.#share.show(PATH, null);
    this.#restart();
  }

  close(): void {
    this.#open = false;
    this.#restart();
  }

  #restart(): void {
    clearTimeout(this.#timer);
    this.#asking.abort();
    this.#asking = new AbortController();
    if (this.#open && !this.#paused && !document.hidden) void this.#scrape(this.#asking.signal);
  }

  async #scrape(signal: AbortSignal): Promise<void> {
    try {
      const text = await (await ask(PATH, null, signal)).text();
      this.#take({ atMs: performance.now(), scrape: parseScrape(text) });
      this.#share.show(PATH, null);
    } catch (error) {
      if (isAbort(error)) return;
      this.#scrapes.length = 0;
      this.#notice.failed(messageOf(error));
      // Asking on would only open the dialog again that was just closed without a key.
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return;
    }
    if (!signal.aborted) this.#timer = setTimeout(() => void this.#scrape(signal), INTERVAL_MS);
  }

  #take(scrape: { readonly atMs: number; readonly scrape: Scrape }): void {
    const previous = this.#scrapes.at(-1);
    // After a pause the figures would be those of the pause.
    if (previous !== undefined && scrape.atMs - previous.atMs > 5 * INTERVAL_MS) this.#scrapes.length = 0;
    this.#scrapes.push(scrape);
    if (this.#scrapes.length > WINDOW_SCRAPES + 1) this.#scrapes.shift();
    const [oldest] = this.#scrapes;
    if (oldest === undefined || oldest === scrape) {
      this.#notice.busy('Measuring …');
      return;
    }
    const seconds = (scrape.atMs - oldest.atMs) / 1000;
    const figures = liveFigures(oldest.scrape, scrape.scrape, seconds);
    for (const card of CARDS) this.#drawCard(card, figures);
    const idle = figures.requestsPerSecond === 0 && figures.inWork === 0;
    this.#notice.done(
      idle ? 'The server is idle: score or translate something, and look again.' : 'The server is at work.',
    );
    this.#drawStacks(oldest.scrape, scrape.scrape, seconds);
    this.#drawServer(scrape.scrape);
  }

  #drawCard({ id, value, shown, beside }: Card, figures: LiveFigures): void {
    const line = this.#lines.get(id) ?? [];
    line.push(value(figures));
    if (line.length > POINTS) line.shift();
    need(`live-${id}`, HTMLElement).textContent = shown(figures);
    need(`live-${id}-beside`, HTMLElement).textContent = beside(figures);
    drawSparkline(need(`live-${id}-line`, SVGSVGElement), line, POINTS);
  }

  #drawStacks(before: Scrape, after: Scrape, seconds: number): void {
    const rows = stackFigures(before, after, seconds).map(
      ({ model, stage, stepsPerSecond, meanDepth, meanSpan, realisedShare }) =>
        el(
          'tr',
          {},
          el('th', { scope: 'row' }, model),
          el('td', {}, stage),
          el('td', {}, short(stepsPerSecond)),
          el('td', {}, fixed(meanDepth, 2)),
          el('td', {}, short(meanSpan)),
          el('td', {}, percent(realisedShare)),
        ),
    );
    const nothing = el('tr', {}, el('td', { colspan: 6 }, 'No model has computed anything yet.'));
    need('live-stacks', HTMLElement).replaceChildren(...(rows.length === 0 ? [nothing] : rows));
  }

  #drawServer(scrape: Scrape): void {
    const uptime = Date.now() / 1000 - sumOf(scrape, 'process_start_time_seconds');
    drawFacts(need('live-server', HTMLElement), [
      ['Tokens scored', count(sumOf(scrape, 'ponder_tokens_total'))],
      ['Tokens written', count(sumOf(scrape, 'ponder_generation_tokens_total'))],
      ['Memory', `${short(sumOf(scrape, 'process_resident_memory_bytes') / 2 ** 20)} MiB`],
      ['Event loop, p99', milliseconds(sumOf(scrape, 'nodejs_eventloop_lag_p99_seconds') * 1000)],
      ['Up for', scrape.has('process_start_time_seconds') ? duration(uptime) : '–'],
    ]);
  }
}

function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
