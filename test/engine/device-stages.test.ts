/** Which device serves a model, and what is left of one that does not fit: on a device that counts what it gave out and can refuse. */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { EngineClient } from '../../src/engine/client.js';
import { openAnywhere } from '../../src/engine/device-fallback.js';
import { type DeviceSetup, openDevice } from '../../src/engine/device-stages.js';
import { spawnWorker } from '../../src/engine/keeper.js';
import type { ModelDescription } from '../../src/models/description.js';
import { type Backend, type ElementType, hostArray, RuntimeFailure } from '../../src/runtime/backend.js';
import type { Device, DeviceBuffer, DeviceGraph, PinnedArray } from '../../src/runtime/device.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import { providerInstalled } from '../../src/runtime/ort-cuda.js';
import { translationModel } from '../families/translating.js';
import { shippedModel } from '../shipped-package.js';
import { StubWorker } from './stub-worker.js';
import { LIMITED, NEVER, request, SETUP, SHORT } from './worker-harness.js';

/** Computes nothing. Refuses the object that follows `room` others, once, as a full GPU does. */
class CountingDevice implements Device {
  readonly name = 'a device that counts';
  readonly device = 'cuda:0';

  constructor(
    private readonly model: ModelDescription,
    private readonly room = Number.POSITIVE_INFINITY,
    private readonly failure: Error = new RuntimeFailure('cudaMalloc', 'out of memory (CUDA error 2)'),
    private readonly counts = { live: 0, given: 0 },
  ) {}

  get live(): number {
    return this.counts.live;
  }
  get given(): number {
    return this.counts.given;
  }

  private give<T extends object>(object: T): T & { release(): void } {
    if (this.counts.given++ === this.room) throw this.failure;
    this.counts.live += 1;
    let open = true;
    const release = () => {
      assert.ok(open, 'released twice');
      open = false;
      this.counts.live -= 1;
    };
    return Object.assign(object, { release });
  }

  open(file: string): DeviceGraph {
    const described = Object.values(this.model.deviceGraphs ?? {}).find((graph) => basename(file) === graph.file);
    assert.ok(described !== undefined, file);
    return this.give({ ...described, bind: () => this.give({ enqueue: () => {} }) });
  }

  buffer(type: ElementType, capacity: number): DeviceBuffer {
    return this.give({ type, capacity });
  }

  pinned(type: ElementType, capacity: number): PinnedArray {
    return this.give({ type, capacity, data: hostArray(type, capacity) });
  }

  int32(capacity: number): PinnedArray<Int32Array> {
    return this.give({ type: 'int32' as const, capacity, data: new Int32Array(capacity) });
  }

  float32(capacity: number): PinnedArray<Float32Array> {
    return this.give({ type: 'float32' as const, capacity, data: new Float32Array(capacity) });
  }

  capture = () => this.give({ launch: () => {} });
  marker = () => this.give({ record: () => {}, wait: () => {}, passed: () => true, since: () => 0 });
  fill(): void {}
  upload(): void {}
  download(): void {}
  synchronise(): void {}
  memory = () => ({ usedBytes: 0, totalBytes: 0 });
  beside = (): Device => this.give(new CountingDevice(this.model, this.room, this.failure, this.counts));
  liveHandles = () => this.live;
  release(): void {}
}

const SIZES = {
  threads: 1,
  spin: false,
  rowsMax: 64,
  lanesMax: 4,
  slotsMax: 64,
  cohorts: 2,
  stepsMax: 2,
  cacheRowsMax: 64,
};
const sized = (device: string): DeviceSetup => ({ device, ...SIZES });

let model: ModelDescription;
let backend: Backend;
before(async () => {
  model = await shippedModel('int8');
  backend = openOrtCapi({ threads: 1, spin: false });
});
after(() => backend.release());

/** Opens the model as the engine's thread does. */
async function open(device: Device, named: string, described: ModelDescription = model) {
  const warnings: string[] = [];
  const setup = { ...SETUP, device: sized(named) };
  const opened = await openAnywhere(backend, device, described, setup, (reason) => warnings.push(reason));
  const release = () => {
    for (const one of opened) one.release();
  };
  return { warnings, release };
}

test('a model that fits scores on the device, holds what it took, and gives all of it back', async () => {
  const device = new CountingDevice(model);
  const { warnings, release } = await open(device, 'auto');
  assert.ok(device.live > 0);
  assert.deepEqual(warnings, []);
  release();
  assert.equal(device.live, 0);
});

test('out of memory, wherever it happens: nothing stays on the device, and the CPU serves with the reason', async () => {
  const fits = new CountingDevice(model);
  (await open(fits, 'auto')).release();
  const step = Math.ceil(fits.given / 20);
  for (let room = 0; room < fits.given; room += room < 30 ? 3 : step) {
    const device = new CountingDevice(model, room);
    const { warnings, release } = await open(device, 'auto');
    assert.equal(device.live, 0, `objects left after ${room}`);
    assert.match(
      warnings.join(),
      /^the CPU serves ut-lm-en: .* on cuda:0: .*out of memory.*; lower --device-slots-max,/,
    );
    release();
  }
});

test('a model that translates, which takes two streams: the same', async () => {
  const translating = await translationModel('int8');
  const fits = new CountingDevice(translating);
  const { warnings, release } = await open(fits, 'auto', translating);
  assert.deepEqual(warnings, []);
  release();
  assert.equal(fits.live, 0);
  for (let room = 0; room < fits.given; room += room < 30 ? 3 : Math.ceil(fits.given / 10)) {
    const device = new CountingDevice(translating, room);
    const { warnings: told, release: releaseCpu } = await open(device, 'auto', translating);
    assert.equal(device.live, 0, `objects left after ${room}`);
    assert.match(told.join(), /^the CPU serves ut-mt-ende: .*out of memory/);
    releaseCpu();
  }
});

test('a device that was named: the failure is thrown with what to do, and nothing stays there either', async () => {
  const device = new CountingDevice(model, 20);
  await assert.rejects(
    open(device, 'cuda:0'),
    (error) =>
      error instanceof RuntimeFailure && /lower --device-slots-max.*or choose --device auto or cpu/.test(error.message),
  );
  assert.equal(device.live, 0);
});

test('a mistake of ours is no reason to fall back', async () => {
  const device = new CountingDevice(model, 20, new TypeError('a mistake'));
  await assert.rejects(open(device, 'auto'), TypeError);
  assert.equal(device.live, 0);
});

test("a package whose graphs for the CPU can't be opened leaves nothing on the device", async () => {
  const device = new CountingDevice(model);
  await assert.rejects(open(device, 'auto', { ...model, graphs: {} }));
  assert.equal(device.live, 0);
});

test('a model without float16 graphs is served by the CPU and nobody is warned', async () => {
  const { deviceGraphs: _, ...without } = model;
  const device = new CountingDevice(model);
  const { warnings, release } = await open(device, 'cuda:0', without);
  release();
  assert.deepEqual([device.given, warnings], [0, []]);
});

test('the device: what --device says, what works, and when the CPU in its place is worth a warning', () => {
  const device = new CountingDevice(model);
  const missing = () => {
    throw new RuntimeFailure('cudaSetDevice', 'no such driver');
  };
  assert.deepEqual(openDevice(sized('cpu'), missing), {
    device: null,
    reason: 'the CPU, as --device says',
    fellBack: false,
  });
  assert.deepEqual(
    openDevice(sized('auto'), () => device),
    { device, reason: 'cuda:0, a device that counts, chosen automatically', fellBack: false },
  );
  const asked: number[] = [];
  openDevice(sized('cuda:3'), ({ deviceId }) => {
    asked.push(deviceId);
    return device;
  });
  assert.deepEqual(asked, [3]);
  const named = openDevice(sized('cuda:0'), missing);
  assert.equal(named.device, null);
  assert.match(named.reason, /^the CPU, since CUDA can't be used: cudaSetDevice: no such driver$/);
  assert.equal(named.fellBack, true);
  // Without the provider nobody meant to use a GPU.
  assert.equal(openDevice(sized('auto'), missing).fellBack, providerInstalled());
});

test('a device that is not there: the thread serves by the CPU, and the reason is a warning', LIMITED, async (t) => {
  const client = new EngineClient({
    setup: { ...SETUP, device: sized('cuda:99'), models: [model] },
    queueLanesMax: 100,
    queueTokensMax: 100_000,
    spawn: spawnWorker,
  });
  t.after(() => client.drain(0));
  await client.started();
  const { device, deviceReason, deviceWarnings } = client.info();
  assert.equal(device, 'cpu');
  assert.match(deviceReason, /^the CPU, since CUDA can't be used: /);
  assert.deepEqual(deviceWarnings, [deviceReason]);
  const { windows } = await client.score(request([SHORT]), NEVER);
  assert.equal(windows[0]?.logprobs.length, SHORT.length);
});

interface Restarting {
  readonly ends: string[];
  /** What the second worker says; the first one had a GPU. */
  again(say: (worker: StubWorker) => void): void;
}

function restarting(t: TestContext): Restarting {
  const workers: StubWorker[] = [];
  const ends: string[] = [];
  const due: (() => void)[] = [];
  const client = new EngineClient({
    setup: { ...SETUP, device: sized('auto'), models: [model] },
    queueLanesMax: 100,
    queueTokensMax: 100_000,
    onStuck: (reason) => ends.push(reason),
    timers: (_ms, call) => {
      due.push(call);
      return () => {};
    },
    spawn: () => {
      const worker = new StubWorker();
      workers.push(worker);
      return worker;
    },
  });
  t.after(async () => {
    const drained = client.drain(0);
    workers.at(-1)?.die();
    await drained;
  });
  const [first] = workers;
  first?.post(ready('cuda:0'));
  first?.die('the device was lost');
  due.at(-1)?.();
  const again: Restarting['again'] = (say) => say(workers[1] as StubWorker);
  return { ends, again };
}

const ready = (device: string) =>
  ({ type: 'ready', device, deviceReason: `it is ${device}`, backend: 'stub', threads: 1 }) as const;

test('a worker that gets its GPU back goes on', (t) => {
  const { ends, again } = restarting(t);
  again((worker) => worker.post(ready('cuda:0')));
  assert.deepEqual(ends, []);
});

test('a GPU that does not come back ends the process with the reason', (t) => {
  const { ends, again } = restarting(t);
  again((worker) => worker.post(ready('cpu')));
  assert.deepEqual(ends, ['cuda:0 was lost and does not come back: it is cpu']);
});

test('so does a model that no longer fits on it', (t) => {
  for (const type of ['device-warning', 'refused'] as const) {
    const { ends, again } = restarting(t);
    again((worker) => {
      worker.post({ type, model: model.id, reason: 'no room' });
      worker.post(ready('cuda:0'));
    });
    assert.deepEqual(ends, ['cuda:0 was lost and does not come back: no room'], type);
  }
});
