/** What halted since the last report: positions by step, and their remainders by tenths. */
export class HaltingCounts {
  /** Index: the step; 0 is unused. */
  readonly atStep: number[];
  readonly remainderTenths: number[] = new Array(10).fill(0);
  remainderSum = 0;

  constructor(private readonly maxSteps: number) {
    this.atStep = new Array(maxSteps + 1).fill(0);
  }

  /** The same for many at once. */
  addAll(steps: Uint8Array, remainders: Float32Array): void {
    const { atStep, remainderTenths } = this;
    let sum = 0;
    for (let i = 0; i < steps.length; i++) {
      const step = steps[i] as number;
      const remainder = remainders[i] as number;
      // Remainders are not negative: cutting off is rounding down.
      const tenth = remainder >= 0.9 ? 9 : (remainder * 10) | 0;
      atStep[step] = (atStep[step] as number) + 1;
      remainderTenths[tenth] = (remainderTenths[tenth] as number) + 1;
      sum += remainder;
    }
    this.remainderSum += sum;
  }

  add(step: number, remainder: number): void {
    this.atStep[step] = (this.atStep[step] as number) + 1;
    const tenth = Math.min(9, Math.floor(remainder * 10));
    this.remainderTenths[tenth] = (this.remainderTenths[tenth] as number) + 1;
    this.remainderSum += remainder;
  }

  /** What was counted, and counts from nothing again. */
  take(): HaltingCounts {
    const taken = new HaltingCounts(this.maxSteps);
    taken.merge(this);
    this.atStep.fill(0);
    this.remainderTenths.fill(0);
    this.remainderSum = 0;
    return taken;
  }

  /** Adds what another has counted. */
  merge({ atStep, remainderTenths, remainderSum }: HaltingCounts): void {
    for (const [step, count] of atStep.entries()) this.atStep[step] = (this.atStep[step] as number) + count;
    for (const [tenth, count] of remainderTenths.entries())
      this.remainderTenths[tenth] = (this.remainderTenths[tenth] as number) + count;
    this.remainderSum += remainderSum;
  }
}
