/** Input tensors whose first dimension follows the rows of a step; grown on demand and reused, so that steady state allocates nothing. */
import type { Backend, ElementType, Tensor } from '../runtime/backend.js';

export class StepInputs {
  private readonly tensors = new Map<string, { tensor: Tensor; capacity: number }>();

  private released = false;

  constructor(private readonly backend: Backend) {}

  /** A tensor of this shape under this name; its previous contents may be gone. */
  take(name: string, type: ElementType, dims: readonly number[]): Tensor {
    if (this.released) throw new Error('the inputs of a released model were used');
    const needed = dims.reduce((product, dim) => product * dim, 1);
    let entry = this.tensors.get(name);
    if (entry === undefined || entry.capacity < needed) {
      entry?.tensor.release();
      const capacity = Math.max(needed, 2 * (entry?.capacity ?? 32));
      entry = { tensor: this.backend.tensor(type, capacity), capacity };
      this.tensors.set(name, entry);
    }
    entry.tensor.reshape(dims);
    return entry.tensor;
  }

  int32(name: string, dims: readonly number[]): { tensor: Tensor; data: Int32Array } {
    const tensor = this.take(name, 'int32', dims);
    return { tensor, data: tensor.data as Int32Array };
  }

  float32(name: string, dims: readonly number[]): { tensor: Tensor; data: Float32Array } {
    const tensor = this.take(name, 'float32', dims);
    return { tensor, data: tensor.data as Float32Array };
  }

  release(): void {
    this.released = true;
    for (const { tensor } of this.tensors.values()) tensor.release();
    this.tensors.clear();
  }
}
