/** The CUDA runtime where there is none, as on every machine that tests run on: what is told, and that nothing is left. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';
import { cudaApi, cudaDevices } from '../../src/runtime/cuda-api.js';
import { openOrtCuda, providerInstalled } from '../../src/runtime/ort-cuda.js';

const OPTIONS = { threads: 1, spin: false, deviceId: 0, nativeOperators: true };

/** Null: there is one. */
function failureOf(open: () => unknown): RuntimeFailure | null {
  try {
    open();
    return null;
  } catch (error) {
    assert.ok(error instanceof RuntimeFailure, String(error));
    return error;
  }
}

test('without the provider: the file that is missing, and the command that fetches it', (t) => {
  if (providerInstalled()) return t.skip('the provider is installed here');
  const failure = failureOf(() => openOrtCuda(OPTIONS));
  assert.match(failure?.message ?? '', /libonnxruntime_providers_cuda\.so is not installed: run npm run gpu:install/);
});

test('without CUDA: the library that was looked for, each time that it is asked for', (t) => {
  const failure = failureOf(cudaApi);
  if (failure === null) return t.skip('CUDA is installed here');
  assert.match(failure.message, /no CUDA runtime: .*libcudart\.so\.13/);
  assert.match(failureOf(cudaDevices)?.message ?? '', /no CUDA runtime/, 'a failure is not remembered as an API');
});

test('--device: auto, cpu or a number of a GPU, and nothing else', () => {
  for (const device of ['auto', 'cpu', 'cuda:0', 'cuda:15'])
    assert.equal(parseConfig([`--device=${device}`], {}).device, device);
  for (const device of ['cuda', 'cuda:x', 'cuda:', 'cuda:-1', 'cuda:100', 'CUDA:0', 'gpu', ''])
    assert.throws(() => parseConfig([`--device=${device}`], {}), /device/, device);
});
