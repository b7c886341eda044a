/** Which rows of the device pools are free. A stack: the rows freed last are the ones still in cache. */
export class SlotPool {
  private readonly free: Int32Array;
  private count: number;

  constructor(readonly capacity: number) {
    this.free = Int32Array.from({ length: capacity }, (_, i) => capacity - 1 - i);
    this.count = capacity;
  }

  get available(): number {
    return this.count;
  }

  /** Takes `count` rows. The caller has checked `available`: asking for more is a defect of the scheduler. */
  take(count: number): Int32Array {
    if (count > this.count) throw new Error(`slot pool: ${count} rows asked of ${this.count} free`);
    this.count -= count;
    return this.free.slice(this.count, this.count + count);
  }

  give(slots: Int32Array): void {
    if (this.count + slots.length > this.capacity) throw new Error('slot pool: a row was given back twice');
    this.free.set(slots, this.count);
    this.count += slots.length;
  }

  takeOne(): number {
    if (this.count === 0) throw new Error('slot pool: a row asked of none free');
    this.count -= 1;
    return this.free[this.count] as number;
  }

  giveOne(slot: number): void {
    if (this.count === this.capacity) throw new Error('slot pool: a row was given back twice');
    this.free[this.count] = slot;
    this.count += 1;
  }
}
