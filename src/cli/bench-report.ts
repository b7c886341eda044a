/** From the rounds of `bench` to its table and its JSON. Pure. */
import {
  arithmeticBound,
  meanVisibleKeys,
  ratioSpread,
  type Spread,
  type StackDimensions,
  spread,
} from './bench-arithmetic.js';
import type { EngineMeasured, Measured } from './bench-engine.js';
import { type Round, rateOf } from './bench-rounds.js';
import { grouped, table } from './terminal.js';

export interface Line {
  readonly name: string;
  readonly tokensPerSecond: Spread;
  /** Rate of the adaptive engine over that of this line, round by round. */
  readonly adaptiveIs: Spread;
  readonly meanDepth: number;
  /** Nats per token: lines that compute the same thing agree. */
  readonly meanLogprob: number;
}

/** How much of what the depths allow became speed. */
export interface DepthGain {
  readonly meanDepth: number;
  /** Rate with depths adapted over rate at full depth. */
  readonly gain: Spread;
  /** The same ratio of CPU time: see EngineMeasured. */
  readonly gainOfCpu: Spread;
  /** T / m: what could be gained if a token cost its steps and nothing else. */
  readonly depthBound: number;
  readonly shareOfDepthBound: Spread;
  /** The same when the output layer, which no depth saves, is counted. */
  readonly arithmeticBound: number;
  readonly shareOfArithmeticBound: Spread;
  /** And when keys and values renewed after halting are counted too: what is missing from here is overhead. */
  readonly boundWithRenewals: number;
  readonly shareOfBoundWithRenewals: Spread;
}

/** Where the engine's time went, over all rounds of one mode. */
export interface TimeShares {
  readonly inGraphs: number;
  readonly deciding: number;
  /** Neither: messages, waking, reports. */
  readonly other: number;
  readonly rowsPerStep: number;
  /** Rows that only renewed keys and values, per row computed in full. */
  readonly renewedPerActive: number;
  /** Attention pairs computed per pair asked for. */
  readonly keysPerUseful: number;
}

export interface BenchReport {
  readonly lines: readonly Line[];
  readonly depth: DepthGain;
  readonly mixedDepth: DepthGain;
  readonly time: { readonly adaptive: TimeShares; readonly fixed: TimeShares };
}

export interface ReportInput {
  readonly rounds: readonly Round[];
  readonly baselineNames: readonly string[];
  readonly dimensions: StackDimensions;
  readonly maxSteps: number;
  readonly lengths: readonly number[];
  readonly mixedLengths: readonly number[];
}

export function reportOf(input: ReportInput): BenchReport {
  const { rounds, baselineNames, maxSteps, mixedLengths } = input;
  const every = <T>(of: (round: Round) => T): T[] => rounds.map(of);
  const reference = every(({ adaptive }) => rateOf(adaptive));
  const line = (name: string, measured: readonly Measured[]): Line => {
    const rates = measured.map(rateOf);
    const tokens = total(measured, (one) => one.tokens);
    return {
      name,
      tokensPerSecond: spread(rates),
      adaptiveIs: ratioSpread(reference, rates),
      meanDepth: total(measured, (one) => one.positionSteps) / tokens,
      meanLogprob: total(measured, (one) => one.logprob) / tokens,
    };
  };
  const range = `${Math.min(...mixedLengths)}-${Math.max(...mixedLengths)}`;
  const { adaptive, fixed, mixedAdaptive, mixedFixed } = {
    adaptive: every((round) => round.adaptive),
    fixed: every((round) => round.fixed),
    mixedAdaptive: every((round) => round.mixedAdaptive),
    mixedFixed: every((round) => round.mixedFixed),
  };
  return {
    lines: [
      line('engine, adaptive', adaptive),
      line(`engine, all ${maxSteps} steps`, fixed),
      line(`engine, adaptive, lengths ${range}`, mixedAdaptive),
      line(`engine, all ${maxSteps} steps, lengths ${range}`, mixedFixed),
      ...baselineNames.map((name, i) =>
        line(
          name,
          every(({ baselines }) => baselines[i] as Measured),
        ),
      ),
    ],
    depth: depthGain(adaptive, fixed, input, input.lengths),
    mixedDepth: depthGain(mixedAdaptive, mixedFixed, input, mixedLengths),
    time: { adaptive: timeShares(adaptive), fixed: timeShares(fixed) },
  };
}

function depthGain(
  adaptive: readonly EngineMeasured[],
  fixed: readonly EngineMeasured[],
  { dimensions, maxSteps }: ReportInput,
  lengths: readonly number[],
): DepthGain {
  const tokens = total(adaptive, (one) => one.tokens);
  const meanDepth = total(adaptive, (one) => one.positionSteps) / tokens;
  const gain = ratioSpread(adaptive.map(rateOf), fixed.map(rateOf));
  const depthBound = maxSteps / meanDepth;
  const depths = { max: maxSteps, mean: meanDepth };
  const visibleKeys = meanVisibleKeys(lengths);
  const arithmetic = arithmeticBound(dimensions, depths, visibleKeys);
  const renewals = total(adaptive, (one) => one.engine.renewedRows) / tokens;
  const withRenewals = arithmeticBound(dimensions, depths, visibleKeys, renewals);
  const share = (bound: number): Spread => ({
    median: gain.median / bound,
    min: gain.min / bound,
    max: gain.max / bound,
  });
  return {
    meanDepth,
    gain,
    gainOfCpu: ratioSpread(cpuSeconds(fixed), cpuSeconds(adaptive)),
    depthBound,
    shareOfDepthBound: share(depthBound),
    arithmeticBound: arithmetic,
    shareOfArithmeticBound: share(arithmetic),
    boundWithRenewals: withRenewals,
    shareOfBoundWithRenewals: share(withRenewals),
  };
}

function cpuSeconds(measured: readonly EngineMeasured[]): number[] {
  return measured.map((one) => one.cpuSeconds);
}

function timeShares(measured: readonly EngineMeasured[]): TimeShares {
  const sum = (of: keyof EngineMeasured['engine']) => total(measured, (one) => one.engine[of]);
  const seconds = total(measured, (one) => one.seconds);
  const inGraphs = sum('computeSeconds') / seconds;
  const deciding = sum('hostSeconds') / seconds;
  return {
    inGraphs,
    deciding,
    other: 1 - inGraphs - deciding,
    rowsPerStep: sum('activeRows') / sum('steps'),
    renewedPerActive: sum('renewedRows') / sum('activeRows'),
    keysPerUseful: sum('keysComputed') / sum('keysUseful'),
  };
}

function total<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0);
}

export function renderReport(title: string, report: BenchReport): string {
  const rates = table(
    [
      ['', 'tokens/s', 'min to max', 'adaptive is', 'mean depth', 'nats/token'],
      ...report.lines.map(({ name, tokensPerSecond, adaptiveIs, meanDepth, meanLogprob }) => [
        name,
        grouped(Math.round(tokensPerSecond.median)),
        `${grouped(Math.round(tokensPerSecond.min))} to ${grouped(Math.round(tokensPerSecond.max))}`,
        `${adaptiveIs.median.toFixed(2)} x`,
        meanDepth.toFixed(3),
        meanLogprob.toFixed(4),
      ]),
    ],
    [1, 2, 3, 4, 5],
  );
  const { depth, mixedDepth, time } = report;
  const gains = table([
    ['', 'equal lengths', 'mixed lengths'],
    ['mean depth m', depth.meanDepth.toFixed(3), mixedDepth.meanDepth.toFixed(3)],
    ['adaptive over fixed', range(depth.gain), range(mixedDepth.gain)],
    ['  by CPU time', range(depth.gainOfCpu), range(mixedDepth.gainOfCpu)],
    ['T / m', depth.depthBound.toFixed(3), mixedDepth.depthBound.toFixed(3)],
    ['  share reached', range(depth.shareOfDepthBound), range(mixedDepth.shareOfDepthBound)],
    ['bound with the output layer', depth.arithmeticBound.toFixed(3), mixedDepth.arithmeticBound.toFixed(3)],
    ['  share reached', range(depth.shareOfArithmeticBound), range(mixedDepth.shareOfArithmeticBound)],
    ['bound with renewals too', depth.boundWithRenewals.toFixed(3), mixedDepth.boundWithRenewals.toFixed(3)],
    ['  share reached', range(depth.shareOfBoundWithRenewals), range(mixedDepth.shareOfBoundWithRenewals)],
  ]);
  const modes = [time.adaptive, time.fixed];
  const shares = table([
    ['engine, equal lengths', 'adaptive', 'fixed'],
    ['time in graphs', ...modes.map(({ inGraphs }) => percent(inGraphs))],
    ['time deciding', ...modes.map(({ deciding }) => percent(deciding))],
    ['other time', ...modes.map(({ other }) => percent(other))],
    ['rows per step', ...modes.map(({ rowsPerStep }) => rowsPerStep.toFixed(0))],
    ['rows renewed per row', ...modes.map(({ renewedPerActive }) => renewedPerActive.toFixed(3))],
    ['keys computed per key asked', ...modes.map(({ keysPerUseful }) => keysPerUseful.toFixed(3))],
  ]);
  return `${title}\n\n${rates}\n${gains}\n${shares}`;
}

function range({ median, min, max }: Spread): string {
  return `${median.toFixed(3)} (${min.toFixed(3)} to ${max.toFixed(3)})`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
