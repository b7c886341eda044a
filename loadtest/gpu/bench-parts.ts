/** What `gpu:bench` runs, in this order: the engine, HTTP over it, what it is compared with, and how far the results are apart. */
import { join } from 'node:path';

/** SEED of export/gpu_inputs.py, which drew the texts; nothing else is random. */
export const TEXTS_SEED = 20180703;

export interface BenchPaths {
  readonly root: string;
  readonly inputs: string;
  readonly models: string;
  readonly out: string;
  /** As of --device. */
  readonly device: string;
  readonly python: string;
  /** What is compared with runs at its best settings alone, as they were found before, and for a minute or two. */
  readonly brief: boolean;
}

export interface Part {
  readonly help: string;
  readonly command: (paths: BenchPaths) => readonly [string, ...string[]];
  /** JSON files that it leaves in `out`. */
  readonly results: readonly string[];
}

type Run = (paths: BenchPaths) => readonly string[];

const script = (name: string, args: Run): Part['command'] => {
  return (paths) => [process.execPath, join(paths.root, `dist/loadtest/gpu/${name}.js`), ...args(paths)];
};
const python = (name: string, args: Run): Part['command'] => {
  return (paths) => [paths.python, join(paths.root, `export/${name}.py`), ...args(paths)];
};
const served = ({ models, device }: BenchPaths) => ['--models', models, '--device', device];

export const PARTS: Readonly<Record<string, Part>> = {
  kernels: {
    help: 'every native kernel against a plain loop, and its time',
    command: ({ root }) => [join(root, '.gpu/lib/kernel-test')],
    results: [],
  },
  score: {
    help: 'scoring, adaptive and at full depth, and one text at a time',
    command: script('measure', (paths) => [
      join(paths.inputs, 'windows.json'),
      join(paths.out, 'score'),
      ...served(paths),
    ]),
    results: ['score/measure.json'],
  },
  translate: {
    help: 'translation, 256 sentences in flight, adaptive and at full depth, beams, and one at a time',
    command: script('measure-translation', (paths) => [
      join(paths.inputs, 'sources.json'),
      join(paths.out, 'translate'),
      ...served(paths),
    ]),
    results: ['translate/measure-translation.json'],
  },
  http: {
    help: 'scoring over HTTP, 256 connections on the same host',
    command: script('http', (paths) => [
      join(paths.inputs, 'windows.json'),
      join(paths.out, 'http.json'),
      ...served(paths),
    ]),
    results: ['http.json'],
  },
  span: {
    help: 'reading 32 texts beside each other with attention spans, and every log-probability',
    command: script('measure-span', ({ inputs, out, models, device }) => [
      join(inputs, 'wikipedia.txt'),
      join(out, 'span'),
      ...['--', '--queue-lanes-max', '100000', '--models', models, '--device', device, '--precision', 'float32'],
    ]),
    results: ['span/span.json'],
  },
  'span-attention': {
    help: "attention at the published model's spans against the layer's widest",
    command: script('span-attention', ({ inputs, out, device }) => [
      join(inputs, 'span-attention'),
      join(out, 'span-attention.json'),
      ...['--device', device],
    ]),
    results: ['span-attention.json'],
  },
  'node-loop-score': {
    help: "scoring by a loop over onnxruntime-node's run",
    command: script('node-loop', ({ models, inputs, out, brief }) => [
      join(models, 'ut-lm-en'),
      join(inputs, 'windows.json'),
      join(out, 'node-loop-score.json'),
      ...(brief ? ['--batch', '128', '--seconds-max', '15'] : []),
    ]),
    results: ['node-loop-score.json'],
  },
  'node-loop-translate': {
    help: 'translation by such a loop',
    command: script('node-loop', ({ models, inputs, out, brief }) => [
      join(models, 'ut-mt-ende'),
      join(inputs, 'sources.json'),
      join(out, 'node-loop-translate.json'),
      ...(brief ? ['--batch', '64', '--seconds-max', '15'] : []),
    ]),
    results: ['node-loop-translate.json'],
  },
  pytorch: {
    help: 'PyTorch: float32 for the comparison of results, float16 and torch.compile for that of speed',
    command: python('gpu_baseline', ({ models, inputs, out, brief }) => [
      join(out, 'pytorch'),
      ...['--models', models],
      ...['--score-texts', join(inputs, 'windows.json')],
      ...['--translate-texts', join(inputs, 'sources.json')],
      ...(brief ? ['--variants', 'compiled', '--seconds-max', '170'] : ['--seconds-max', '1800']),
    ]),
    results: ['pytorch/pytorch.json'],
  },
  'parity-score': {
    help: 'scores of the engine against those of PyTorch',
    command: python('gpu_parity', ({ out }) => [
      join(out, 'pytorch/reference'),
      join(out, 'score/batch'),
      join(out, 'parity-score.json'),
    ]),
    results: ['parity-score.json'],
  },
  'parity-translate': {
    help: 'translations of the engine against those of PyTorch, with BLEU',
    command: python('gpu_parity', ({ inputs, out }) => [
      join(out, 'pytorch/reference'),
      join(out, 'translate/batch'),
      join(out, 'parity-translate.json'),
      ...['--references', join(inputs, 'references.json')],
    ]),
    results: ['parity-translate.json'],
  },
  'parity-batch': {
    help: 'scores in any batch against those one at a time',
    command: python('gpu_parity', ({ out }) => [
      join(out, 'score/batch'),
      join(out, 'score/alone'),
      join(out, 'parity-batch.json'),
      ...['--limits', 'batch'],
    ]),
    results: ['parity-batch.json'],
  },
  'parity-translate-batch': {
    help: 'translations in any batch against those one at a time',
    command: python('gpu_parity', ({ out }) => [
      join(out, 'translate/batch'),
      join(out, 'translate/alone'),
      join(out, 'parity-translate-batch.json'),
      ...['--limits', 'batch'],
    ]),
    results: ['parity-translate-batch.json'],
  },
};
