/**
 * Attention alone with the spans of the published model (12 x 512, S = 8192), on a GPU: heads at their own spans against every head of a layer at the
 * layer's widest, rounded to 64, as the published code trims. Both take turns in one process, each a captured CUDA graph; ratios are taken round by
 * round, of the device's own time.
 *
 * usage: node dist/loadtest/gpu/span-attention.js GRAPHS OUT.json [--device cuda:0] [--units 8,32,128] [--rounds 200]
 *
 * GRAPHS: what `export/span_speed.py graphs` writes. A unit is 64 queries of a lane of its own.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { elementCount } from '../../src/runtime/backend.js';
import type { Device, DeviceBuffer, View } from '../../src/runtime/device.js';
import { openOrtCuda } from '../../src/runtime/ort-cuda.js';

const UNIT = 64;
const WARM_UPS = 20;
/** Of a pool, where the time does not depend on the numbers: 0x3c3c3c3c is 0.0115. */
const POOL_BYTE = 0x3c;
/** `widest` is what the others are compared with. */
const VARIANTS = ['per-head', 'widest', 'widest-masked'] as const;
type Variant = (typeof VARIANTS)[number];

interface Plan {
  readonly mean_keys: number;
  readonly groups: Readonly<Record<Variant, readonly (readonly { readonly heads: number; readonly span: number }[])[]>>;
}

interface Captured {
  launch(): void;
  release(): void;
}

/** One variant over pools of its own, captured. */
function capture(device: Device, folder: string, variant: Variant, plan: Plan, units: number): Captured {
  const graph = device.open(join(folder, `${variant}.onnx`));
  const buffers: DeviceBuffer[] = [];
  const view = (type: 'float32' | 'int32', dims: readonly number[], byte = POOL_BYTE): View => {
    const buffer = device.buffer(type, elementCount(dims));
    buffers.push(buffer);
    device.fill(buffer, byte);
    return { buffer, dims };
  };
  const sized = (name: string, rows: number): View => view('float32', [rows, graph.inputs[name]?.dims[1] as number]);
  const uploaded = (type: 'float32' | 'int32', dims: readonly number[], value: (i: number) => number): View => {
    const made = view(type, dims);
    const host = device.pinned(type, elementCount(dims));
    for (let i = 0; i < host.data.length; i++) host.data[i] = value(i);
    device.upload(host, made.buffer, 0, elementCount(dims));
    device.synchronise();
    host.release();
    return made;
  };
  const rows = units * UNIT;
  const width = graph.inputs.qkv?.dims[1] as number;
  const inputs: Record<string, View> = {
    // Anything that is not the same for all keys.
    qkv: uploaded('float32', [rows, width], (i) => Math.sin(i)),
    cap: uploaded('float32', [units, 1, 1, 1], () => 1e9),
  };
  plan.groups[variant].forEach((groups, layer) => {
    groups.forEach(({ span }, j) => {
      const ring = span + UNIT;
      for (const name of [`keys${layer}_${j}`, `values${layer}_${j}`]) inputs[name] = sized(name, 1 + units * ring);
      // Each unit has a ring of its own behind row 0.
      inputs[`window${span}`] ??= uploaded('int32', [units, ring], (i) => 1 + i);
    });
  });
  const outputs = Object.fromEntries(
    Object.entries(graph.outputs).map(([name, { dims }]) => [name, view('float32', [rows, dims[1] as number])]),
  );
  const run = graph.bind(inputs, outputs);
  run.enqueue();
  device.synchronise();
  const sequence = device.capture(() => run.enqueue());
  return {
    launch: () => sequence.launch(),
    release: () => {
      sequence.release();
      run.release();
      for (const buffer of buffers) buffer.release();
      graph.release();
    },
  };
}

/** Milliseconds of the device, a launch each. */
function takeTurns(device: Device, runs: Record<Variant, Captured>, rounds: number): Record<Variant, number[]> {
  const times: Record<Variant, number[]> = { 'per-head': [], widest: [], 'widest-masked': [] };
  const [began, ended] = [device.marker(), device.marker()];
  for (let round = 0; round < WARM_UPS + rounds; round++) {
    // Nobody always follows the same one.
    const order = VARIANTS.map((_, i) => VARIANTS[(i + round) % VARIANTS.length] as Variant);
    for (const variant of order) {
      began.record();
      runs[variant].launch();
      ended.record();
      ended.wait();
      if (round >= WARM_UPS) times[variant].push(ended.since(began));
    }
  }
  began.release();
  ended.release();
  return times;
}

function spread(values: readonly number[]) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] as number;
  return { median: at(0.5), p10: at(0.1), p90: at(0.9) };
}

/** Device, JSON of what was measured. */
export function measure(device: Device, folder: string, units: readonly number[], rounds: number) {
  const plan = JSON.parse(readFileSync(join(folder, 'plan.json'), 'utf8')) as Plan;
  const measured = units.map((count) => {
    const entries = VARIANTS.map((variant) => [variant, capture(device, folder, variant, plan, count)] as const);
    const runs = Object.fromEntries(entries) as Record<Variant, Captured>;
    const times = takeTurns(device, runs, rounds);
    for (const run of Object.values(runs)) run.release();
    const against = (variant: Variant) => spread(times.widest.map((ms, i) => ms / (times[variant][i] as number)));
    const milliseconds = Object.fromEntries(VARIANTS.map((variant) => [variant, spread(times[variant])]));
    const ratios = { perHead: against('per-head'), widestMasked: against('widest-masked') };
    const result = { units: count, queries: count * UNIT, milliseconds, widestOver: ratios };
    console.log(JSON.stringify(result));
    return result;
  });
  return { device: device.name, rounds, warmUps: WARM_UPS, plan, measured };
}

function main(): void {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      device: { type: 'string', default: 'cuda:0' },
      units: { type: 'string', default: '8,32,128' },
      rounds: { type: 'string', default: '200' },
    },
  });
  const [folder, out] = positionals;
  if (folder === undefined || out === undefined)
    throw new Error('usage: span-attention.js GRAPHS OUT.json [--device cuda:N] [--units N,N] [--rounds N]');
  const deviceId = Number(/^cuda:(\d+)$/.exec(values.device)?.[1] ?? 0);
  const device = openOrtCuda({ threads: 1, spin: false, deviceId, nativeOperators: true });
  const result = measure(device, folder, values.units.split(',').map(Number), Number(values.rounds));
  writeFileSync(out, `${JSON.stringify(result, null, 1)}\n`);
  device.release();
}

// A test measures on a device of its own.
if (process.argv[1]?.endsWith('span-attention.js')) main();
