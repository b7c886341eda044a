/**
 * The highest rate within a latency objective, by bisection. A rate is within it when, with the confidence stated, at most 1 - quantile of all
 * requests would be late: the upper end of the Wilson interval of the share that was late is below it. A rate is beyond it when the
 * lower end is above. What neither can be said of is tried for longer, and then counts as beyond.
 */

export interface Probe {
  readonly perSecond: number;
  readonly requests: number;
  /** Later than the objective, refused or failed. */
  readonly late: number;
  readonly verdict: 'within' | 'beyond' | 'undecided';
}

export interface Capacity {
  readonly probes: readonly Probe[];
  /** null: not even the lowest rate tried is within the objective. */
  readonly withinPerSecond: number | null;
  readonly beyondPerSecond: number | null;
}

/** One-sided 95 %. */
export const CONFIDENCE = 0.95;
const Z = 1.645;

export function wilson(late: number, requests: number): { readonly low: number; readonly high: number } {
  const share = late / requests;
  const z2 = Z ** 2 / requests;
  const middle = (share + z2 / 2) / (1 + z2);
  const half = (Z / (1 + z2)) * Math.sqrt((share * (1 - share)) / requests + z2 / (4 * requests));
  return { low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** Fewer requests than this can't show that a share is below `lateMax`, even if none is late. */
export function requestsNeeded(lateMax: number): number {
  return Math.ceil((Z ** 2 * (1 - lateMax)) / lateMax);
}

export function judge(late: number, requests: number, lateMax: number): Probe['verdict'] {
  const { low, high } = wilson(late, requests);
  if (high <= lateMax) return 'within';
  return low > lateMax ? 'beyond' : 'undecided';
}

export interface Search {
  /** Where to begin: about what the server can do at most. */
  readonly guessPerSecond: number;
  /** The bracket is narrow enough when its ends differ by this share. */
  readonly tolerance: number;
  readonly lateMax: number;
  readonly probe: (
    perSecond: number,
    requests: number,
  ) => Promise<{ readonly requests: number; readonly late: number }>;
}

const PROBES_MAX = 12;

export async function findCapacity({ guessPerSecond, tolerance, lateMax, probe }: Search): Promise<Capacity> {
  const probes: Probe[] = [];
  let within: number | null = null;
  let beyond: number | null = null;
  let next = guessPerSecond / 2;
  while (probes.length < PROBES_MAX) {
    const result = await decide(next);
    probes.push(result);
    if (result.verdict === 'within') within = next;
    else beyond = next;
    if (within !== null && beyond !== null && beyond / within <= 1 + tolerance) break;
    if (beyond === null) next = within === null ? next : within * 1.5;
    else next = within === null ? beyond / 2 : Math.sqrt(within * beyond);
    if (next < guessPerSecond / 64) break;
  }
  return { probes, withinPerSecond: within, beyondPerSecond: beyond };

  async function decide(perSecond: number): Promise<Probe> {
    let [requests, late] = [0, 0];
    let verdict: Probe['verdict'] = 'undecided';
    // The second try doubles what is known.
    for (let tries = 0; tries < 2 && verdict === 'undecided'; tries++) {
      const more = await probe(perSecond, requestsNeeded(lateMax) + 10);
      requests += more.requests;
      late += more.late;
      verdict = judge(late, requests, lateMax);
    }
    return { perSecond, requests, late, verdict };
  }
}
