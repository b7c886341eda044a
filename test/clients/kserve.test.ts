/** tritonclient[http] from PyPI, unchanged, against the server. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { depthOf } from '../fakes.js';
import { type Listening, listeningServer } from './listening.js';
import { pythonWith, runClient } from './python.js';

let server: Listening;
let removeModels = (): void => {};
before(async () => {
  const models = mkdtempSync(join(tmpdir(), 'ponder-models-'));
  mkdirSync(join(models, 'fake-mt'));
  writeFileSync(join(models, 'fake-mt', 'manifest.json'), '{}');
  server = await listeningServer(['--models', models]);
  removeModels = () => rmSync(models, { recursive: true });
});
after(async () => {
  await server.close();
  removeModels();
});

interface Scores {
  readonly logprobs: number[];
  readonly depths: number[];
  readonly token_ids: number[];
  readonly lengths: number[];
}

interface Said {
  readonly model_ready: boolean[];
  readonly server: string[];
  readonly metadata: {
    readonly inputs: { readonly name: string; readonly datatype: string; readonly shape: number[] }[];
  };
  readonly translated: string[];
  readonly statistics: number;
  readonly errors: Record<string, { readonly status: string; readonly message: string } | null>;
  readonly [key: string]: unknown;
}

const found = pythonWith(['tritonclient.http']);
test('PyPI tritonclient[http]', { skip: 'missing' in found && found.missing }, async () => {
  assert.ok('python' in found);
  const said = (await runClient(found.python, 'kserve_client.py', [server.address, 'fake', 'fake-mt'])) as Said;
  assert.deepEqual([said.live, said.ready, said.model_ready], [true, true, [true, true, false, false]]);
  assert.ok(said.server.includes('binary_tensor_data'));
  assert.deepEqual(said.metadata.inputs[0], { name: 'text', datatype: 'BYTES', shape: [-1] });
  assert.equal(said.config, 'fake-mt');

  const ids = [...Buffer.from('Hello world.Café')];
  const binary = said.binary as Scores;
  assert.deepEqual(binary.token_ids, ids);
  assert.deepEqual(binary.lengths, [12, 5]);
  assert.deepEqual(
    binary.depths,
    ids.map((id) => depthOf(id, 1, 8)),
  );
  assert.deepEqual(
    binary.logprobs,
    ids.map((id) => Math.fround(-(1 + (id % 7)) / 3)),
  );
  for (const way of ['json', 'gzip', 'deflate', 'async']) assert.deepEqual(said[way], binary, way);
  assert.deepEqual(said.ids, { token_ids: [72, 101, 108], lengths: [3] });
  assert.deepEqual(said.ids32, said.ids);
  assert.deepEqual(said.budget, { depths: ids.map((id) => depthOf(id, 1, 2)) });
  assert.deepEqual(said.budget_as_parameter, said.budget);
  assert.equal(said.id, 'some id');
  assert.deepEqual(said.translated, ['hELLO WORLD.', 'cAFé']);
  assert.equal(said.raw, 'hELLO.');

  const { unknown_model, unknown_input, bad_budget } = said.errors;
  assert.equal(unknown_model?.status, '404');
  assert.match(unknown_model.message, /^model 'none' is not served: use one of fake/);
  assert.equal(unknown_input?.status, '400');
  assert.match(unknown_input.message, /did you mean text\?/);
  assert.equal(bad_budget?.status, '400');
  assert.match(bad_budget.message, /max_steps must be an integer from 1 to 8/);
  assert.ok(said.statistics >= 8);
  assert.deepEqual(said.changes, [true, false, true]);
  assert.match((said.load as { message: string }).message, /no package 'none' in the models folder/);
  assert.deepEqual((said.index as { name: string; state: string }[])[0], {
    name: 'fake',
    state: 'READY',
    reason: '',
    version: '1',
  });
  assert.deepEqual(
    said.all_statistics,
    server.engine.models().map(({ id }) => id),
  );
});
