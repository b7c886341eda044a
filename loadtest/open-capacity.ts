/** `--find-capacity`: the highest rate within the objective, for adaptive and for full depth, on the same texts. */
import { CommandError, Stopped } from '../src/cli/command.js';
import { type Capacity, CONFIDENCE, findCapacity } from './capacity.js';
import type { Peak } from './open-report.js';
import { type Options, planOf, type Run } from './open-run.js';
import { runPhase } from './phase.js';
import type { Mode } from './workloads.js';

/** Of a probe: what is beyond the capacity by a little must have time to pile up. */
const SECONDS_MIN = 20;

export type Capacities = Readonly<Record<Mode, Capacity>>;

export async function capacities(run: Run, peak: Peak): Promise<Capacities> {
  const { options, server, client, stop, io } = run;
  const lateMax = 1 - options.quantile;
  const search = async (mode: Mode, guess: number): Promise<Capacity> => {
    let tries = 0;
    return findCapacity({
      guessPerSecond: guess,
      tolerance: 0.07,
      lateMax,
      probe: async (perSecond, requests) => {
        if (stop.aborted) throw new Stopped();
        const seconds = Math.max(SECONDS_MIN, requests / perSecond);
        const phase = { load: perSecond / peak.okPerSecond, mode };
        const plan = planOf(run, phase, peak, seconds, options.seed * 1000 + ++tries);
        const { result, answers } = await runPhase(server.url, client, plan, stop, () => {});
        if (result.problems.length > 0) throw new CommandError(`the search ended: ${result.problems.join('; ')}`);
        const late = answers.filter(
          ({ outcome, endedAtMs, intendedAtMs }) => outcome !== 'OK' || endedAtMs - intendedAtMs > options.objectiveMs,
        ).length;
        io.stderr.write(`${mode} ${perSecond.toFixed(2)}/s: ${late} of ${result.sent} late\n`);
        return { requests: result.sent, late };
      },
    });
  };
  const adaptive = await search('adaptive', peak.okPerSecond);
  return { adaptive, fixed: await search('fixed', (adaptive.withinPerSecond ?? peak.okPerSecond) * 0.7) };
}

export function renderCapacity(capacity: Capacities, { objectiveMs, quantile }: Options): string {
  const line = (mode: Mode) => {
    const { withinPerSecond, beyondPerSecond, probes } = capacity[mode];
    const rate = (value: number | null) => (value === null ? 'none tried' : value.toFixed(2));
    return `${mode.padEnd(9)} within ${rate(withinPerSecond)}/s, beyond ${rate(beyondPerSecond)}/s, ${probes.length} probes\n`;
  };
  const { adaptive, fixed } = capacity;
  const ratio =
    adaptive.withinPerSecond === null || fixed.withinPerSecond === null
      ? ''
      : `adaptive over full depth: ${(adaptive.withinPerSecond / fixed.withinPerSecond).toFixed(2)}\n`;
  return `at most ${objectiveMs} ms for ${quantile * 100} % of the requests, confidence ${CONFIDENCE * 100} %\n${line('adaptive')}${line('fixed')}${ratio}`;
}
