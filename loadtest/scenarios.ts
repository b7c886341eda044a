/** THE table of open-loop scenarios: what arrives, when, and how often compared with what the server does at most. */
import { burstRate, diurnalRate, type Rate } from './arrivals.js';
import { type Mode, WORKLOADS, type Workload } from './workloads.js';

export interface Phase {
  /** Mean requests a second, as a share of the peak that was measured at the beginning. */
  readonly load: number;
  readonly mode: Mode;
}

export interface Scenario {
  readonly help: string;
  readonly workload: Workload;
  /** One after the other; those of one load get the same requests at the same times. */
  readonly phases: readonly Phase[];
  /** How the rate varies around its mean; absent: it does not. */
  readonly rate?: (perSecond: number, seconds: number) => Rate;
  /** Deadline of every request, unless told otherwise. */
  readonly deadlineMs?: number;
  /** What may come beside OK: a server that is not overloaded refuses nothing. */
  readonly refusals: readonly string[];
  /** Goodput of a phase, as a share of the peak, that must be reached. */
  readonly goodputMin?: number;
}

/** Adaptive and full depth beside each other, so that what the machine does meanwhile meets both. */
const SWEEP: readonly Phase[] = [0.2, 0.4, 0.5, 0.6, 0.8, 0.95].flatMap((load) => [
  { load, mode: 'adaptive' } as const,
  { load, mode: 'fixed' } as const,
]);
const OVERLOADED = ['QUEUE_FULL', 'DEADLINE_EXCEEDED', 'NOT_READY'];
const sweep = (help: string, workload: Workload): Scenario => ({
  help,
  workload,
  phases: SWEEP,
  // Full depth is saturated at half the load of adaptive depth.
  refusals: OVERLOADED,
});

export const SCENARIOS = {
  'score-short': sweep(
    'Scoring sentences: throughput and latency over the load, adaptive beside full depth.',
    WORKLOADS.short,
  ),
  'score-long': sweep('Scoring texts of some 400 tokens, a few of thousands.', WORKLOADS.long),
  'score-mixed': sweep('Scoring texts whose lengths have a heavy tail.', WORKLOADS.mixed),
  translation: sweep('Translating a sentence or a few.', WORKLOADS.translation),
  streams: {
    help: 'Translations read as streams: time to the first event too.',
    workload: WORKLOADS.streams,
    phases: [0.3, 0.6, 0.9].map((load) => ({ load, mode: 'adaptive' })),
    refusals: OVERLOADED,
  },
  tenants: {
    help: 'One tenant sends batches, the others single sentences: who waits for whom?',
    workload: WORKLOADS.tenants,
    phases: [0.5, 0.8, 1.2].map((load) => ({ load, mode: 'adaptive' })),
    deadlineMs: 10_000,
    refusals: OVERLOADED,
  },
  bursts: {
    help: 'Eight times the quiet rate for a tenth of the time.',
    workload: WORKLOADS.mixed,
    phases: [0.3, 0.6].map((load) => ({ load, mode: 'adaptive' })),
    rate: (perSecond) => burstRate(perSecond, 8, 10),
    refusals: OVERLOADED,
  },
  diurnal: {
    help: 'A day in the time of one phase.',
    workload: WORKLOADS.mixed,
    phases: [{ load: 0.5, mode: 'adaptive' }],
    rate: diurnalRate,
    refusals: OVERLOADED,
  },
  'overload-2x': {
    help: 'Twice what the server can do, each request with a deadline.',
    workload: WORKLOADS.mixed,
    phases: [{ load: 2, mode: 'adaptive' }],
    deadlineMs: 3000,
    refusals: OVERLOADED,
    goodputMin: 0.9,
  },
  'overload-10x': {
    help: 'Ten times what the server can do, each request with a deadline.',
    workload: WORKLOADS.mixed,
    phases: [{ load: 10, mode: 'adaptive' }],
    deadlineMs: 3000,
    refusals: OVERLOADED,
    goodputMin: 0.9,
  },
} as const satisfies Record<string, Scenario>;

export type ScenarioName = keyof typeof SCENARIOS;
