/** Both backends keep the contract of backend.ts. ort-capi is opened first: ONNX Runtime's environment is one a process, and it must make it. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type Backend, type Graph, RuntimeFailure, type Tensor } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { openOrtNode } from '../../src/runtime/ort-node.js';
import { DOUBLE, doubling, FLOAT, onnxFile } from './onnx-files.js';

const folder = mkdtempSync(join(tmpdir(), 'ponder-graphs-'));
const backends = new Map<Backend['name'], Backend>();
before(async () => {
  backends.set('ort-capi', openOrtCapi({ threads: 1, spin: false }));
  backends.set('ort-node', await openOrtNode({ threads: 1 }));
});
after(async () => {
  for (const backend of backends.values()) await backend.release();
  rmSync(folder, { recursive: true });
});

async function opened(backend: Backend, name: string, content: Uint8Array): Promise<Graph> {
  const file = join(folder, name);
  writeFileSync(file, content);
  return backend.open(file);
}

/** A float32 tensor of this shape, and its elements. */
function floats(backend: Backend, capacity: number, dims: readonly number[]): { tensor: Tensor; data: Float32Array } {
  const tensor = backend.tensor('float32', capacity);
  tensor.reshape(dims);
  return { tensor, data: tensor.data as Float32Array };
}

for (const name of ['ort-capi', 'ort-node'] as const) {
  const contract = (what: string, body: (backend: Backend) => Promise<void>) =>
    test(`${name}: ${what}`, async () => {
      const backend = backends.get(name) as Backend;
      const before = backend.liveHandles();
      await body(backend);
      assert.equal(backend.liveHandles(), before, 'all is released');
    });

  contract('a graph tells its inputs and outputs', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    assert.deepEqual(graph.inputs, { x: { type: 'float32', dims: ['rows', 2] } });
    assert.deepEqual(graph.outputs, { y: { type: 'float32', dims: ['rows', 2] } });
    graph.release();
  });

  contract('reshaping back and forth, and new data, are seen by every run', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const x = floats(backend, 200, [100, 2]);
    const y = floats(backend, 200, [100, 2]);
    // The runtime may give a new shape's handle the address of the one just released: a comparison of addresses would miss it.
    for (const [run, rows] of [3, 1, 3, 100, 1, 2, 1, 2, 3, 100, 99, 100].entries()) {
      x.tensor.reshape([rows, 2]);
      y.tensor.reshape([rows, 2]);
      y.data.fill(-1);
      for (let i = 0; i < 2 * rows; i++) x.data[i] = run + i;
      await graph.run({ x: x.tensor }, { y: y.tensor });
      const expected = Array.from({ length: 200 }, (_, i) => (i < 2 * rows ? 2 * (run + i) : -1));
      assert.deepEqual(Array.from(y.data), expected, `run ${run}: its rows, and no more`);
    }
    for (const released of [x.tensor, y.tensor, graph]) released.release();
  });

  contract('a tensor bound as input and output is written in place', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const { tensor, data } = floats(backend, 4, [2, 2]);
    data.set([1, 2, 3, 4]);
    await graph.run({ x: tensor }, { y: tensor });
    await graph.run({ x: tensor }, { y: tensor });
    assert.equal(tensor.data, data);
    assert.deepEqual(Array.from(data), [4, 8, 12, 16]);
    tensor.release();
    graph.release();
  });

  contract('other tensors may be bound from run to run', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const [a, b, c] = [1, 2, 3].map((value) => {
      const made = floats(backend, 2, [1, 2]);
      made.data.fill(value);
      return made;
    }) as [ReturnType<typeof floats>, ReturnType<typeof floats>, ReturnType<typeof floats>];
    await graph.run({ x: a.tensor }, { y: c.tensor });
    assert.equal(c.data[0], 2);
    await graph.run({ x: b.tensor }, { y: c.tensor });
    assert.equal(c.data[0], 4);
    await graph.run({ x: b.tensor }, { y: a.tensor });
    assert.equal(a.data[0], 4);
    for (const released of [a.tensor, b.tensor, c.tensor, graph]) released.release();
  });

  contract('a tensor may be empty, and takes no shape larger than itself', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const x = backend.tensor('float32', 2);
    assert.throws(() => x.reshape([2, 2]), RangeError);
    assert.deepEqual(x.dims, [2], 'a refused shape changes nothing');
    x.reshape([0, 2]);
    await graph.run({ x }, { y: x });
    for (const released of [x, graph]) released.release();
  });

  contract("what the runtime refuses is a RuntimeFailure in the runtime's words", async (backend) => {
    const value = { name: 'x', type: FLOAT, dims: ['rows'] };
    const unknown = onnxFile([{ op: 'NoSuchOp', inputs: ['x'], outputs: ['y'] }], [value], [{ ...value, name: 'y' }]);
    for (const [content, words] of [
      [Buffer.from('this is no model'), /[Pp]rotobuf|pars|load/],
      [unknown, /NoSuchOp/],
    ] as const) {
      await assert.rejects(opened(backend, 'bad.onnx', content), (error) => {
        assert.ok(error instanceof RuntimeFailure, String(error));
        assert.match(error.message, words);
        return true;
      });
    }
    await assert.rejects(async () => backend.open(join(folder, 'missing.onnx')), RuntimeFailure);
  });

  contract('a run with a wrong shape or type fails, and the next one is none the worse', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const x = floats(backend, 6, [2, 3]);
    const y = floats(backend, 6, [2, 3]);
    const ints = backend.tensor('int32', 2);
    ints.reshape([1, 2]);
    await assert.rejects(async () => graph.run({ x: x.tensor }, { y: y.tensor }), RuntimeFailure);
    await assert.rejects(async () => graph.run({ x: ints }, { y: y.tensor }), RuntimeFailure);
    await assert.rejects(async () => graph.run({}, { y: y.tensor }), /no tensor is bound to x/);
    x.tensor.reshape([3, 2]);
    y.tensor.reshape([3, 2]);
    x.data.fill(5);
    await graph.run({ x: x.tensor }, { y: y.tensor });
    assert.deepEqual(Array.from(y.data), [10, 10, 10, 10, 10, 10]);
    for (const released of [x.tensor, y.tensor, ints, graph]) released.release();
  });

  contract('released objects throw when used, and may be released again', async (backend) => {
    const graph = await opened(backend, 'doubling.onnx', doubling());
    const { tensor: x } = floats(backend, 2, [1, 2]);
    const { tensor: y } = floats(backend, 2, [1, 2]);
    x.release();
    x.release();
    assert.throws(() => x.reshape([2, 1]), /released/);
    await assert.rejects(async () => graph.run({ x }, { y }), /released/);
    graph.release();
    graph.release();
    await assert.rejects(async () => graph.run({ x: y }, { y }), /released/);
    y.release();
  });
}

test('ort-capi: a type that the engine does not use is refused by name, and its session is released', async () => {
  const backend = backends.get('ort-capi') as Backend;
  const before = backend.liveHandles();
  await assert.rejects(opened(backend, 'double.onnx', doubling(DOUBLE)), /x has element type 11/);
  assert.equal(backend.liveHandles(), before);
});

test('ort-capi: a released backend throws when used; releasing it again is harmless', async () => {
  const backend = openOrtCapi({ threads: 1, spin: false });
  await backend.release();
  await backend.release();
  assert.equal(backend.liveHandles(), 0);
  assert.throws(() => backend.tensor('float32', 1), /released/);
  await assert.rejects(opened(backend, 'doubling.onnx', doubling()), /released/);
});
