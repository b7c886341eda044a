/** A device as a backend: what repeats is captured, whatever the shapes, and what the host writes is what the next launch reads. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { AdaptiveSpan } from '../../src/families/adaptive-span.js';
import { loadModels } from '../../src/models/registry.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';
import type { PinnedArray, Sequence } from '../../src/runtime/device.js';
import { DeviceScope } from '../../src/runtime/device-scope.js';
import { HostedBackend } from '../../src/runtime/hosted-backend.js';
import { openOrtCapi } from '../../src/runtime/ort-capi.js';
import type { SpanBlockLane } from '../../src/scheduler/span-scheduler.js';
import { EmulatedDevice } from '../emulated-device.js';

class CapturingDevice extends EmulatedDevice {
  captured = 0;
  launched = 0;
  refuses = false;
  /** Of the last capture: what of the host's memory a launch may read. */
  sources: readonly PinnedArray[] | undefined;

  override capture(enqueue: () => void, sources?: readonly PinnedArray[]): Sequence {
    if (this.refuses) throw new RuntimeFailure('capture', 'an operator can not be captured');
    this.captured += 1;
    this.sources = sources;
    return {
      launch: () => {
        this.launched += 1;
        enqueue();
      },
      release() {},
    };
  }
}

function lane(slot: number, ids: Int32Array, done: number, topCount = 0): SpanBlockLane {
  const request = { jobId: 1, index: 0, ids, topCount, spanCap: null, reach: 1024, blocksAhead: null };
  return { slot, done, startsAt: 0, startId: 10, left: ids.length - done, request } as unknown as SpanBlockLane;
}

test('spans through a device: captured when a shape comes again, and the log-probabilities are those of the CPU', async () => {
  const config = parseConfig([], {});
  const { models } = await loadModels({ folder: config.models, only: ['span-lm-bytes'], precision: 'float32' });
  const model = models[0];
  assert.ok(model !== undefined);
  const backend = openOrtCapi({ threads: 1, spin: false });
  const device = new CapturingDevice(backend);
  const hosted = await AdaptiveSpan.open(new HostedBackend(device, 1, assert.fail), model, 2, 64);
  const plain = await AdaptiveSpan.open(backend, model, 2, 64);
  const text = new TextEncoder().encode(
    'Attention spans are learnt, and most heads look at a few characters. '.repeat(6),
  );
  const ids = Int32Array.from(text.subarray(0, 64 * 6));
  const agree = async (lanes: readonly SpanBlockLane[]) => {
    const plan = { lanes, blockTokens: 64, reach: 1024 };
    const [got, want] = [await hosted.advance(plan), await plain.advance(plan)];
    assert.deepEqual(got, want);
  };
  for (const done of [0, 64, 128]) await agree([lane(0, ids, done)]);
  assert.deepEqual([device.captured, device.launched], [1, 2]);
  assert.deepEqual(device.sources, [], 'no table is long enough to be copied');
  await agree([lane(0, ids, 192), lane(1, ids, 0)]);
  assert.equal(device.captured, 1, 'another shape');
  await agree([lane(0, ids, 256), lane(1, ids, 64)]);
  assert.equal(device.captured, 2);
  await agree([lane(0, ids, 320, 3), lane(1, ids, 128)]);
  assert.deepEqual([device.captured, device.launched], [2, 3], 'another count of best tokens is another run');
  hosted.release();
  plain.release();
  await backend.release();
});

test('through the scope that a model is opened in too, a capture is told what of the host a launch may read', async () => {
  const backend = openOrtCapi({ threads: 1, spin: false });
  const device = new CapturingDevice(backend);
  const scope = new DeviceScope(device);
  const sources = [device.int32(4)];
  scope.capture(() => {}, sources).release();
  assert.equal(device.sources, sources);
  scope
    .beside()
    .capture(() => {})
    .release();
  assert.equal(device.sources, undefined);
  await backend.release();
});

test('what can not be captured runs all the same', async () => {
  const config = parseConfig([], {});
  const { models } = await loadModels({ folder: config.models, only: ['span-lm-bytes'], precision: 'float32' });
  const backend = openOrtCapi({ threads: 1, spin: false });
  const device = new CapturingDevice(backend);
  device.refuses = true;
  const warned: string[] = [];
  const family = await AdaptiveSpan.open(
    new HostedBackend(device, 1, (reason) => warned.push(reason)),
    models[0] as never,
    1,
    64,
  );
  const ids = new Int32Array(256).fill(101);
  for (const done of [0, 64, 128]) {
    const [result] = await family.advance({ lanes: [lane(0, ids, done)], blockTokens: 64, reach: 1024 });
    assert.equal(result?.logprobs.length, 64);
  }
  assert.deepEqual(warned, ['a graph is not captured, and runs slower: capture: an operator can not be captured']);
  family.release();
  await backend.release();
});
