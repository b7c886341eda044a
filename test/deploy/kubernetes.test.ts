/** The manifests against the schemas of a release of Kubernetes, and what they say against the server's own options. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { OPTIONS, optionNames, variableOf } from '../../src/config.js';
import { pythonWith, runClient } from '../clients/python.js';

const DEPLOY = fileURLToPath(new URL('../../../deploy/', import.meta.url));
const FILES = [
  'kubernetes/ponder-serve.yaml',
  'kubernetes/prometheus-adapter.yaml',
  'kserve/cluster-serving-runtime.yaml',
];
const found = pythonWith(['kubernetes_validate', 'yaml'], 'deploy-requirements.txt');
const skip = 'missing' in found ? found.missing : false;

test('the manifests are valid, strictly', { skip }, async () => {
  const { python } = found as { python: string };
  const paths = FILES.map((file) => DEPLOY + file);
  const checked = await runClient(python, 'validate_manifests.py', paths);
  assert.deepEqual(checked, [
    'Deployment ponder-serve',
    'Service ponder-serve',
    'PodDisruptionBudget ponder-serve',
    'HorizontalPodAutoscaler ponder-serve',
    'ConfigMap prometheus-adapter-ponder-serve',
    'ClusterServingRuntime ponder-serve',
  ]);
});

test('the variables they set are options, and there is time to drain', () => {
  const text = readFileSync(`${DEPLOY}kubernetes/ponder-serve.yaml`, 'utf8');
  const byVariable = new Map(optionNames().map((name) => [variableOf(name), name]));
  const set = [...text.matchAll(/name: (PONDER_\w+), value: "?([^"}]+)"?\}/g)];
  assert.ok(set.length >= 3);
  for (const [, variable = '', value = ''] of set) {
    const name = byVariable.get(variable);
    assert.ok(name !== undefined, `${variable} is no option`);
    assert.ok(OPTIONS[name].parse(value) !== undefined, `${variable}=${value}`);
  }
  const graceMs = Number(/terminationGracePeriodSeconds: (\d+)/.exec(text)?.[1]) * 1000;
  const preStopMs = Number(/command: \[sleep, "(\d+)"\]/.exec(text)?.[1]) * 1000;
  assert.ok(OPTIONS.drainMsMax.default + preStopMs < graceMs);
});
