/** A package that passed its hashes and is wrong all the same: a clear failure, never a wrong result, and nothing left open. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { UniversalTransformer } from '../../src/families/universal-transformer.js';
import type { GraphDescription, ModelDescription } from '../../src/models/description.js';
import { type Backend, RuntimeFailure } from '../../src/runtime/backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { externalConstants, FLOAT } from '../runtime/onnx-files.js';
import { goldenTexts, shippedModel, spoiltModel } from '../shipped-package.js';
import { MODEL_BUDGET, scoreAlone } from './scoring.js';

const LIMITS = { rowsMax: 64, lanesMax: 4, slotsMax: 64, finishRowsMax: 64 };
const SHORT = Int32Array.from(goldenTexts()[2]?.ids ?? []);

let backend: Backend;
let handlesBefore: number;
before(() => {
  backend = openOrtCapi({ threads: 1, spin: false });
  handlesBefore = backend.liveHandles();
});
afterEach(() => assert.equal(backend.liveHandles(), handlesBefore, 'nothing is left open'));
after(() => backend.release());

const open = (model: ModelDescription) => UniversalTransformer.open(backend, model, LIMITS);

function refused(model: ModelDescription, words: RegExp): Promise<void> {
  return assert.rejects(open(model), (error) => {
    assert.ok(error instanceof RuntimeFailure, String(error));
    assert.match(error.message, words);
    return true;
  });
}

/** The model with one graph described otherwise. */
function described(model: ModelDescription, graph: string, change: (graph: GraphDescription) => GraphDescription) {
  return { ...model, graphs: { ...model.graphs, [graph]: change(model.graphs[graph] as GraphDescription) } };
}

test('a graph file is missing', async (t) => {
  const model = await spoiltModel(t, 'int8', (folder) => rmSync(join(folder, 'step.int8.onnx')));
  await refused(model, /step\.int8\.onnx/);
});

test('the weights are missing, or shorter than the graphs say', async (t) => {
  await refused(await spoiltModel(t, 'int8', (folder) => rmSync(join(folder, 'weights.bin'))), /weights\.bin/);
  await refused(
    await spoiltModel(t, 'int8', (folder) => truncateSync(join(folder, 'weights.bin'), 1000)),
    /weights\.bin|out of bounds/,
  );
});

test('a graph file is cut short', async (t) => {
  const model = await spoiltModel(t, 'int8', (folder) => truncateSync(join(folder, 'finish.int8.onnx'), 1000));
  await refused(model, /finish\.int8\.onnx|[Pp]rotobuf/);
});

test('a graph that the family needs is not described', async () => {
  const model = await shippedModel('int8');
  const { finish_top: _, ...graphs } = model.graphs;
  await refused({ ...model, graphs }, /no graph finish_top/);
});

test('a graph disagrees with the manifest: the message names the side, the name and both shapes', async () => {
  const model = await shippedModel('int8');
  const spec = { type: 'float32', dims: ['pool', 256] } as const;
  const wrongShape = described(model, 'step', (g) => ({ ...g, inputs: { ...g.inputs, state: spec } }));
  await refused(
    wrongShape,
    /step: input state is float32 \[pool, 512\] in the graph and float32 \[pool, 256\] in the manifest/,
  );
  const wrongType = described(model, 'finish', (g) => ({
    ...g,
    outputs: { ...g.outputs, logprob: { type: 'int32', dims: ['rows'] } },
  }));
  await refused(
    wrongType,
    /finish: output logprob is float32 \[rows\] in the graph and int32 \[rows\] in the manifest/,
  );
  const unknown = described(model, 'begin', (g) => ({ ...g, inputs: { ...g.inputs, more: spec } }));
  await refused(unknown, /begin: input more is nothing in the graph/);
  const missing = described(model, 'begin', ({ inputs: { ids: _, ...inputs }, ...g }) => ({ ...g, inputs }));
  await refused(missing, /begin: input ids is int32 \[rows\] in the graph and nothing in the manifest/);
});

test('the graphs of another precision under this one’s names', async () => {
  const model = await shippedModel('int8');
  const swapped = described(model, 'step', (g) => ({ ...g, file: 'begin.onnx' }));
  await refused(swapped, /step: input/);
});

test('a model that is released throws when it is used, and can be released again', async () => {
  const family = await open(await shippedModel('int8'));
  family.release();
  family.release();
  await assert.rejects(scoreAlone(family, { ids: SHORT, budget: MODEL_BUDGET }), /released/);
});

test('weights that are not numbers give no score', async (t) => {
  for (const precision of ['int8', 'float32'] as const) {
    const model = await spoiltModel(t, precision, () => {});
    const weightsFile = join(model.folder, 'weights.bin');
    const intact = readFileSync(weightsFile);
    const constants = new Map(
      Object.values(model.graphs).flatMap(({ file }) => [...externalConstants(readFileSync(join(model.folder, file)))]),
    );
    const floats = [...constants].filter(([, { type }]) => type === FLOAT);
    assert.ok(floats.length >= 14, `${floats.length} constants of numbers with a point`);
    for (const [name, { offset, bytes }] of floats) {
      const spoilt = Buffer.from(intact);
      for (let i = 0; i < bytes; i += 4) spoilt.writeFloatLE(Number.NaN, offset + i);
      writeFileSync(weightsFile, spoilt);
      const family = await open(model);
      await assert.rejects(
        scoreAlone(family, { ids: SHORT, budget: MODEL_BUDGET }),
        /not a number/,
        `${precision} ${name}`,
      );
      family.release();
    }
  }
});
