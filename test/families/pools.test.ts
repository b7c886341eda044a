/** The pools stay where they are: bound as input and output, a graph writes the rows it is given and copies none. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Backend, type Graph, hostArray, type Tensor } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { shippedModel } from '../shipped-package.js';

const POOL = 20_000;
const WIDTH = 512;

let backend: Backend;
let graph: Graph;
before(async () => {
  backend = openOrtCapi({ threads: 1, spin: false });
  const model = await shippedModel('int8');
  graph = await backend.open(join(model.folder, model.graphs.begin?.file as string));
});
after(() => {
  graph.release();
  backend.release();
});

interface Pools {
  readonly state: Tensor;
  readonly accumulator: Tensor;
  readonly halting: Tensor;
}

function pools(): Pools {
  const pool = (columns: number) => {
    const tensor = backend.tensor('float32', POOL * columns);
    tensor.reshape([POOL, columns]);
    return tensor;
  };
  return { state: pool(WIDTH), accumulator: pool(WIDTH), halting: pool(1) };
}

function ints(values: readonly number[]): Tensor {
  const tensor = backend.tensor('int32', values.length);
  (tensor.data as Int32Array).set(values);
  return tensor;
}

const release = (...tensors: Tensor[]) => tensors.forEach((tensor) => void tensor.release());
const outputs = (to: Pools) => ({ state_out: to.state, accumulator_out: to.accumulator, halting_out: to.halting });

test('only the slots named are written, into the same memory', async () => {
  const own = pools();
  const before = Object.values(own).map(({ data }: Tensor) => data);
  for (const data of before) (data as Float32Array).fill(7);
  const [ids, slots] = [ints([5, 6, 7]), ints([0, 19_999, 12])];
  await graph.run({ ids, slots, ...own }, outputs(own));
  Object.values(own).forEach(({ data }: Tensor, i) => {
    assert.equal(data, before[i], 'the array that was there before');
  });
  const untouched = hostArray('float32', WIDTH).fill(7 as never);
  for (const slot of [1, 11, 13, 19_998]) {
    assert.deepEqual(own.state.data.slice(slot * WIDTH, (slot + 1) * WIDTH), untouched);
  }
  for (const slot of [0, 12, 19_999]) {
    assert.ok(own.state.data[slot * WIDTH] !== 7);
    assert.equal(own.accumulator.data[slot * WIDTH], 0);
    assert.equal(own.halting.data[slot], 0);
  }
  release(ids, slots, ...Object.values(own));
});

test('in place takes a fraction of what copying the pools takes', async () => {
  const [own, other] = [pools(), pools()];
  const [ids, slots] = [ints([5]), ints([3])];
  const fastest = async (to: Pools) => {
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 7; i++) {
      const start = performance.now();
      await graph.run({ ids, slots, ...own }, outputs(to));
      best = Math.min(best, performance.now() - start);
    }
    return best;
  };
  const [inPlace, copying] = [await fastest(own), await fastest(other)];
  assert.ok(inPlace * 5 < copying, `${inPlace} ms in place, ${copying} ms into other pools`);
  release(ids, slots, ...Object.values(own), ...Object.values(other));
});
