/**
 * Whose turn it is among the tenants that have something waiting: start-time fair queueing (Goyal, Vin and Cheng 1996) over rows, with equal
 * weights. A tenant with a thousand texts and one with a single text each get every other turn.
 *
 * A tenant that was away starts at the virtual time, which is where the turn that was taken last started: what it did not use is no
 * credit. It is forgotten when virtual time has passed what it used.
 */
export class TenantTurns {
  private readonly used = new Map<string, number>();
  private virtual = 0;

  /** Of the tenants that wait, the one that has used least; ties go to the name. */
  next(waiting: Iterable<string>): string | null {
    let best: string | null = null;
    for (const tenant of waiting) {
      if (best === null || this.before(tenant, best)) best = tenant;
    }
    return best;
  }

  private before(a: string, b: string): boolean {
    const [startA, startB] = [this.startOf(a), this.startOf(b)];
    return startA < startB || (startA === startB && a < b);
  }

  private startOf(tenant: string): number {
    return Math.max(this.virtual, this.used.get(tenant) ?? 0);
  }

  /** The tenant took a turn of so many rows. */
  charge(tenant: string, rows: number): void {
    const start = this.startOf(tenant);
    this.virtual = start;
    this.used.set(tenant, start + rows);
    for (const [other, used] of this.used) if (used <= this.virtual) this.used.delete(other);
  }

  /** Tenants that have used more than virtual time; a limit on memory. */
  get remembered(): number {
    return this.used.size;
  }
}
