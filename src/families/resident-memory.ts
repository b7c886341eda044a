/** Keys and values of encoded sentences in half precision: the encoder writes them, every decoder reads them. */
import type { Device, DeviceBuffer, View } from '../runtime/device.js';

export class ResidentMemory {
  private readonly keysBuffer: DeviceBuffer;
  private readonly valuesBuffer: DeviceBuffer;
  private readonly indexBuffer: DeviceBuffer;
  /** With a scrap row for padding. */
  private readonly rows: number;

  constructor(
    device: Device,
    rows: number,
    private readonly width: number,
  ) {
    this.rows = rows + 1;
    this.keysBuffer = device.buffer('float16', this.rows * width);
    this.valuesBuffer = device.buffer('float16', this.rows * width);
    this.indexBuffer = device.buffer('int32', this.rows);
    device.fill(this.keysBuffer, 0);
    device.fill(this.valuesBuffer, 0);
    const identity = device.int32(this.rows);
    for (let i = 0; i < this.rows; i++) identity.data[i] = i;
    device.upload(identity, this.indexBuffer, 0, this.rows);
    device.synchronise();
    identity.release();
  }

  get keys(): View {
    return { buffer: this.keysBuffer, dims: [this.rows, this.width] };
  }
  get values(): View {
    return { buffer: this.valuesBuffer, dims: [this.rows, this.width] };
  }
  /** A sentence's rows lie side by side, so the list of keys is every row in order. */
  get index(): View {
    return { buffer: this.indexBuffer, dims: [this.rows] };
  }

  release(): void {
    for (const buffer of [this.keysBuffer, this.valuesBuffer, this.indexBuffer]) buffer.release();
  }
}
